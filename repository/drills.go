package repository

import (
	"github.com/virtbackup/virtbackup/drill/record"
	"github.com/virtbackup/virtbackup/lineage"
)

// DrillsOf are the newest records of drills of points that were read before, by their ids.
func (r *Repository) DrillsOf(l *lineage.Lineage) map[string]record.Record {
	return record.Newest(record.List(r.domainDir(l.Domain)), l.All(), l.Digest)
}
