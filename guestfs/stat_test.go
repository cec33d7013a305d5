package guestfs

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

const twoStats = `[0] = {
  st_dev: 2049
  st_ino: 17
  st_mode: 35309
  st_nlink: 2
  st_uid: 1234
  st_gid: 4321
  st_rdev: 0
  st_size: 6
  st_blksize: 1024
  st_blocks: 2
  st_atime_sec: 1
  st_atime_nsec: 2
  st_mtime_sec: -3
  st_mtime_nsec: 4
  st_ctime_sec: 5
  st_ctime_nsec: 6
  st_spare1: 0
}
[1] = {
  st_dev: 0
  st_ino: -1
  st_mode: 0
}
`

func TestParseStats(t *testing.T) {
	stats, err := parseStats([]byte(twoStats))
	if err != nil || len(stats) != 2 {
		t.Fatalf("%d structures, %v", len(stats), err)
	}
	s := stats[0]
	if s.Inode != 17 || s.Links != 2 || s.UID != 1234 || s.GID != 4321 || s.Size != 6 || s.ModeText() != "-rwsr-xr-x" ||
		!s.Accessed.Equal(time.Unix(1, 2)) || !s.Modified.Equal(time.Unix(-3, 4)) || !s.Changed.Equal(time.Unix(5, 6)) {
		t.Errorf("%+v %s", s, s.ModeText())
	}
	if stats[1].Inode != -1 {
		t.Errorf("%+v", stats[1])
	}
	for _, wrong := range []string{"st_ino: 1\n", "st_dev: 1\nst_ino: x\n"} {
		if _, err := parseStats([]byte(wrong)); err == nil {
			t.Errorf("no error for %q", wrong)
		}
	}
}

func TestModeText(t *testing.T) {
	for mode, want := range map[uint32]string{
		0o100644: "-rw-r--r--", 0o041777: "drwxrwxrwt", 0o041776: "drwxrwxrwT", 0o120777: "lrwxrwxrwx", 0o106644: "-rwSr-Sr--",
		0o010600: "prw-------", 0o060660: "brw-rw----", 0o020666: "crw-rw-rw-", 0o140755: "srwxr-xr-x", 0: "?---------",
	} {
		if got := (Stat{Mode: mode}).ModeText(); got != want {
			t.Errorf("%o: %s, want %s", mode, got, want)
		}
	}
}

// JSON has each name exactly.
func TestFileJSON(t *testing.T) {
	data, err := json.Marshal(File{Path: "/a\xff", Target: "é", Stat: Stat{Mode: 0o120777}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"path_base64":"L2H/"`, `"target":"é"`, `"mode":"0777"`, `"type":"symlink"`} {
		if !strings.Contains(string(data), want) {
			t.Errorf("%s is not in %s", want, data)
		}
	}
	if strings.Contains(string(data), "target_base64") {
		t.Errorf("%s", data)
	}
}
