package checkpoint

import (
	"slices"
	"strings"

	"github.com/virtbackup/virtbackup/manifest"
)

// Elsewhere returns the id of the repository and the point that the checkpoint was made
// for, by virtbackup, if that is not the repository whose id is here, or was not before it
// was moved or copied. It relies on marks that anybody can write: enough to list the
// checkpoint, but no proof that it may be deleted.
func (c Checkpoint) Elsewhere(here string) (repositoryID, point string, ok bool) {
	words := strings.Fields(c.Description)
	if c.Ours && !c.Inherited || len(words) != 3 || words[0] != mark {
		return "", "", false
	}
	// A checkpoint that is not known to be ours may still be: if instants.json is lost or
	// damaged, and in format 1.
	if !c.Ours && words[1] == here {
		return "", "", false
	}
	// Until format 2 a checkpoint had the name of its point.
	named, _, hasIdentity := manifest.ParseCheckpointName(c.Name)
	if hasIdentity && named == words[2] || c.Name == words[2] {
		return words[1], words[2], true
	}
	return "", "", false
}

// OfElsewhere lists the checkpoints that virtbackup made for other repositories than the
// one whose id is here.
func OfElsewhere(all []Checkpoint, here string) []Checkpoint {
	return slices.DeleteFunc(slices.Clone(all), func(c Checkpoint) bool {
		_, _, ok := c.Elsewhere(here)
		return !ok
	})
}
