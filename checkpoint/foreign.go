package checkpoint

import (
	"slices"
	"strings"

	"github.com/virtbackup/virtbackup/repository"
)

// Elsewhere returns the id of the repository and the point that the checkpoint was made
// for, by virtbackup, if that is not this repository, or was not before it was moved or
// copied. It goes by marks that anybody can write: enough to list it, and no proof that it
// may be deleted.
func (c Checkpoint) Elsewhere() (repositoryID, point string, ok bool) {
	words := strings.Fields(c.Description)
	if c.Ours && !c.Inherited || len(words) != 3 || words[0] != mark {
		return "", "", false
	}
	// Until format 2 a checkpoint had the name of its point.
	named, _, hasIdentity := repository.ParseCheckpointName(c.Name)
	if hasIdentity && named == words[2] || c.Name == words[2] {
		return words[1], words[2], true
	}
	return "", "", false
}

// OfElsewhere lists the checkpoints that virtbackup made for other repositories.
func OfElsewhere(all []Checkpoint) []Checkpoint {
	return slices.DeleteFunc(slices.Clone(all), func(c Checkpoint) bool {
		_, _, ok := c.Elsewhere()
		return !ok
	})
}
