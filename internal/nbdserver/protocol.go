package nbdserver

// Numbers of the protocol, as its document names them.
const (
	initMagic   = 0x4e42444d41474943 // NBDMAGIC
	optionMagic = 0x49484156454F5054 // IHAVEOPT
	replyMagic  = 0x3e889045565a9    // of option replies

	requestMagic    = 0x25609513
	simpleMagic     = 0x67446698
	structuredMagic = 0x668e33ef

	// Handshake flags, of the server and of the client.
	flagFixedNewstyle = 1 << 0
	flagNoZeroes      = 1 << 1

	// Transmission flags.
	flagHasFlags     = 1 << 0
	flagReadOnly     = 1 << 1
	flagSendDF       = 1 << 7
	flagCanMultiConn = 1 << 8

	optExportName      = 1
	optAbort           = 2
	optList            = 3
	optInfo            = 6
	optGo              = 7
	optStructuredReply = 8
	optListMetaContext = 9
	optSetMetaContext  = 10

	repAck         = 1
	repServer      = 2
	repInfo        = 3
	repMetaContext = 4
	repErrUnsup    = 1<<31 + 1
	repErrInvalid  = 1<<31 + 3
	repErrUnknown  = 1<<31 + 6

	infoExport      = 0
	infoName        = 1
	infoDescription = 2
	infoBlockSize   = 3

	cmdRead        = 0
	cmdWrite       = 1
	cmdDisc        = 2
	cmdTrim        = 4
	cmdWriteZeroes = 6
	cmdBlockStatus = 7

	cmdFlagDF     = 1 << 2
	cmdFlagReqOne = 1 << 3

	replyFlagDone = 1 << 0

	replyNone        = 0
	replyOffsetData  = 1
	replyOffsetHole  = 2
	replyBlockStatus = 5
	replyError       = 1<<15 + 1
	replyErrorOffset = 1<<15 + 2

	stateHole = 1 << 0 // of base:allocation
	stateZero = 1 << 1

	errPerm     = 1
	errIO       = 5
	errInvalid  = 22
	errOverflow = 75
)

// baseAllocation is the only metadata context, and its number on every connection.
const (
	baseAllocation   = "base:allocation"
	baseAllocationID = 1
)

// Bounds of what a client may send.
const (
	// maxPayload is what the protocol lets a client send or ask for without having asked
	// ("Block size constraints").
	maxPayload = 32 << 20
	// maxOption bounds the data of an option. Strings have at most 4096 bytes; with this much there
	// is room for 15 of the longest queries of contexts.
	maxOption = 64 << 10
	// preferredBlock is a cluster of the images: each is proven as a whole.
	preferredBlock = 64 << 10
)
