package drill

import (
	"testing"

	"github.com/virtbackup/virtbackup/manifest"
)

// What is printed as JSON says of which format it is, as the file does.
func TestResultHasFormat(t *testing.T) {
	d := &drill{point: manifest.Manifest{Domain: "vm1", ID: "check1"}}
	if r := d.newResult("blake3:a"); r.Format != manifest.Format || r.Domain != "vm1" || r.Manifest != "blake3:a" {
		t.Errorf("%+v", r)
	}
}
