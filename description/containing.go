package description

import (
	"os"
	"path/filepath"

	"github.com/virtbackup/virtbackup/manifest"
)

// Containing finds the repository that a path of [localfile.RealPath] lies in, any
// repository; "" is none.
func Containing(real string) string {
	for d := real; ; d = filepath.Dir(d) {
		if _, err := os.Lstat(filepath.Join(d, manifest.DescriptionName)); err == nil {
			return d
		}
		if d == filepath.Dir(d) {
			return ""
		}
	}
}
