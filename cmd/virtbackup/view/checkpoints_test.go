package view

import (
	"bytes"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/checkpoint"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/xml"
)

func TestCheckpointRows(t *testing.T) {
	all := []checkpoint.Checkpoint{
		{Checkpoint: xml.Checkpoint{Name: "check1", Disks: []xml.CheckpointDisk{{Target: "vda", Bitmap: "check1", Size: 65536}, {Target: "vdb"}}}, Ours: true, Sealed: true, Instant: instants.Instant{Point: "check1"}},
		{Checkpoint: xml.Checkpoint{Name: "check2", Disks: []xml.CheckpointDisk{{Target: "vda", Bitmap: "check2", Size: -1}}}, Ours: true},
		{Checkpoint: xml.Checkpoint{Name: "theirs", Disks: []xml.CheckpointDisk{{Target: "vda", Bitmap: "theirs"}}}},
	}
	rows := CheckpointRows(all)
	var b bytes.Buffer
	for _, r := range rows {
		b.WriteString(r.Name + "|" + r.Owner + "|" + r.Point + "|" + strings.Join(r.Broken, " ") + "|" + diskStates(all, r.Name) + "|" + totalSize(r) + "\n")
	}
	want := "check1|ours|check1||vda|64.0 KiB\ncheck2|left over||vda|vda (broken or unknown)|unknown\ntheirs|foreign|||vda|0 B\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	if _, ok := rows[0].Bytes["vdb"]; ok {
		t.Error("a disk that the checkpoint does not cover has a size")
	}
}
