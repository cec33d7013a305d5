package guestfs

import (
	"fmt"
	"strings"

	"github.com/virtbackup/virtbackup/internal/fail"
)

// maxLine is the longest line that guestfish takes: it reads lines with fgets into 8192 bytes, and
// would take the rest of a longer one for another command.
const maxLine = 8000

// command returns the line of guestfish's language that runs a command with arguments. The name and
// the options are ours; the arguments may have any bytes but zero, and remain single arguments:
// within double quotes only the quote, the backslash and the end of the line have a meaning.
func command(name string, args ...string) (string, error) {
	var b strings.Builder
	b.WriteString(name)
	for _, arg := range args {
		b.WriteString(` "`)
		for i := range len(arg) {
			switch c := arg[i]; {
			case c == 0:
				return "", fail.Errorf(fail.Usage, "", "%q has a zero byte", arg)
			case c < ' ' || c == 0x7f || c == '"' || c == '\\':
				fmt.Fprintf(&b, `\x%02x`, c)
			default:
				b.WriteByte(c)
			}
		}
		b.WriteString(`"`)
	}
	if b.Len() > maxLine {
		return "", fmt.Errorf("%s: the path is too long for guestfish: %.60q…", name, args[0])
	}
	return b.String(), nil
}

// listable tells whether a name can be one of a list, which is a single argument of guestfish: names
// in single quotes, in which a backslash would hide the quote that follows it.
func listable(name string) bool { return !strings.ContainsAny(name, `'\`) && len(name) < maxList }

// maxList is the length of a list. Each of its bytes may have four in the line, and there is a path.
const maxList = 1000

// lists puts names into lists of bounded lengths, in their order.
func lists(names []string) (batches [][]string) {
	length := maxList + 1
	for _, name := range names {
		if length += len(name) + 3; length > maxList {
			batches, length = append(batches, nil), len(name)+3
		}
		last := len(batches) - 1
		batches[last] = append(batches[last], name)
	}
	return batches
}

// list is the argument for names that are listable.
func list(names []string) string { return "'" + strings.Join(names, "' '") + "'" }
