package offline

import (
	"fmt"
	"testing"
	"time"
)

var someTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// The parent of a new checkpoint is the newest that has no child.
func TestNewest(t *testing.T) {
	doc := func(name, parent string, at int) string {
		if parent != "" {
			parent = "<parent><name>" + parent + "</name></parent>"
		}
		return fmt.Sprintf("<domaincheckpoint><name>%s</name>%s<creationTime>%d</creationTime><disks><disk name='vda' checkpoint='no'/></disks></domaincheckpoint>", name, parent, at)
	}
	for want, docs := range map[string][]string{
		"":   nil,
		"c1": {doc("c1", "", 10)},
		"c2": {doc("c1", "", 10), doc("c2", "c1", 5)}, // by a clock that was set back
		"c4": {doc("c1", "", 10), doc("c2", "c1", 20), doc("c3", "", 15), doc("c4", "c3", 30)},
	} {
		if got, err := newest(docs); err != nil || got != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
}
