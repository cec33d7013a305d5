package repository

import (
	"encoding/binary"
	"math/rand/v2"
	"unsafe"
)

// pageAligned returns n bytes that O_DIRECT takes, filled from seed.
func pageAligned(n int, seed uint64) []byte {
	buf := make([]byte, n+4096)
	skip := (4096 - int(uintptr(unsafe.Pointer(&buf[0]))%4096)) % 4096
	buf = buf[skip : skip+n : skip+n]
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	rand.NewChaCha8(key).Read(buf)
	return buf
}
