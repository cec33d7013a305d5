package serve

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// What one chain is enough for: nothing changes it, until the prune at the end.
func TestChain(t *testing.T) {
	t.Parallel()
	s := chainSite(t)
	damaged := s.Copied()
	before := testsite.Listing(t, s.Repo)
	t.Run("together", func(t *testing.T) {
		for name, test := range map[string]func(*testing.T, *testsite.Site){
			"every point": everyPoint, "through nbdkit": throughNbdkit, "killed": killed, "refused": refused, "URIs": uris, "map": mapOfEveryPoint,
			"damage": func(t *testing.T, _ *testsite.Site) { damage(t, damaged) },
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, s)
			})
		}
	})
	if after := testsite.Listing(t, s.Repo); after != before {
		t.Errorf("the repository was %s, and is %s", before, after)
	}
	t.Run("several clients beside a prune", func(t *testing.T) { severalClientsBesideAPrune(t, s) })
}

// Every point of a chain is served as it was, in the eyes of several clients.
func everyPoint(t *testing.T, s *testsite.Site) {
	t.Helper()
	for _, p := range s.Points {
		v := serve(t, s, p.ID)
		v.wantTruth(p)
		for _, d := range p.Disks {
			info := testdomain.Tool(t, "nbdinfo", "--json", v.uri(d.Target))
			var said struct {
				Exports []struct {
					Size      int64 `json:"export-size"`
					ReadOnly  bool  `json:"is_read_only"`
					MultiConn bool  `json:"can_multi_conn"`
				}
			}
			if err := json.Unmarshal([]byte(info), &said); err != nil || len(said.Exports) != 1 || said.Exports[0].Size != d.VirtualSize || !said.Exports[0].ReadOnly || !said.Exports[0].MultiConn {
				t.Errorf("%s: nbdinfo says %s", d.Target, info)
			}
			wantMap(t, v, d, p)
		}
		v.end()
	}
}

// wantMap sees that what the server calls a hole is zero in truth, and that it calls most zeros so.
func wantMap(t *testing.T, v *served, d manifest.Disk, p testsite.Point) {
	t.Helper()
	truth, err := os.ReadFile(p.Truth[d.Target])
	if err != nil {
		t.Fatal(err)
	}
	var extents []struct {
		Offset, Length int64
		Type           int
	}
	if err := json.Unmarshal([]byte(testdomain.Tool(t, "nbdinfo", "--map", "--json", v.uri(d.Target))), &extents); err != nil {
		t.Fatal(err)
	}
	end, data := int64(0), int64(0)
	for _, e := range extents {
		if e.Offset != end || e.Type != 0 && e.Type != 3 {
			t.Errorf("%s: the map is %+v", d.Target, extents)
		}
		end = e.Offset + e.Length
		if e.Type == 0 {
			data += e.Length
		} else if len(strings.Trim(string(truth[e.Offset:end]), "\x00")) > 0 {
			t.Errorf("%s: %d bytes at offset %d are no zeros", d.Target, e.Length, e.Offset)
		}
	}
	if end != d.VirtualSize || data > d.VirtualSize*9/10 {
		t.Errorf("%s: %d bytes of %d are mapped, %d of them as data", d.Target, end, d.VirtualSize, data)
	}
}

// Through another server, which asks in its own way.
func throughNbdkit(t *testing.T, s *testsite.Site) {
	t.Helper()
	p := s.Points[2]
	v := serve(t, s, p.ID, "--disk", "vdb")
	for _, filters := range []string{"--filter=blocksize", "--filter=noextents", "--filter=readahead"} {
		for _, option := range []string{"blocksize=512 maxlen=64k", ""} {
			args := []string{"-U", "-", filters, "nbd", "uri=" + v.uri("vdb"), "shared=true"}
			if filters == "--filter=blocksize" && option != "" {
				args = append(args, "maxdata=64k", "maxlen=64k")
			}
			args = append(args, "--run", fmt.Sprintf("qemu-img compare -f raw -F raw \"$uri\" %s", p.Truth["vdb"]))
			testdomain.Tool(t, "nbdkit", args...)
		}
	}
	v.end()
}

// Several clients, each with several connections, and a prune beside them: it hides points, and
// leaves their images alone until nobody reads any more.
func severalClientsBesideAPrune(t *testing.T, s *testsite.Site) {
	t.Helper()
	p := s.Points[1]
	v := serve(t, s, p.ID)
	var clients sync.WaitGroup
	for i := range 3 {
		clients.Go(func() {
			copied := filepath.Join(s.Dir, fmt.Sprintf("copied-%d", i))
			for range 3 {
				if err := testdomain.TryTool(t, "nbdcopy", "--connections=4", v.uri("vda"), copied); err != nil {
					t.Error(err)
					return
				}
				if err := testdomain.TryTool(t, "cmp", copied, p.Truth["vda"]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	r := s.Program.Run(t, "prune", s.Name, "--keep-last", "1", "--compact")
	if r.Code != 3 || !strings.Contains(r.Stderr, "are being read by") {
		t.Errorf("prune beside a served point: exit %d", r.Code)
	}
	clients.Wait()
	v.wantTruth(p)
	v.end()
	if r := s.Program.Run(t, "prune", s.Name, "--keep-last", "1", "--compact"); r.Code != 0 {
		t.Errorf("prune when nobody reads: exit %d", r.Code)
	}
	if _, err := os.Stat(imageOf(s, p.Manifest, "vda")); !os.IsNotExist(err) {
		t.Errorf("the point that was served is still there: %v", err)
	}
	merged := serve(t, s, "latest")
	merged.wantTruth(s.Points[2])
	merged.end()
}

// A disk of which a cluster is damaged: who reads it gets an I/O error, never other bytes, and
// everything else is right.
func damage(t *testing.T, s *testsite.Site) {
	t.Helper()
	p := s.Points[2]
	image := imageOf(s, s.Points[0].Manifest, "vda")
	info, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	testsite.Flip(t, image, info.Size()/2)
	v := serve(t, s, p.ID)
	truth, err := os.ReadFile(p.Truth["vda"])
	if err != nil {
		t.Fatal(err)
	}
	const piece = 64 << 10
	salvaged := filepath.Join(t.TempDir(), "salvaged")
	testdomain.Tool(t, "qemu-img", "convert", "--salvage", "-f", "raw", "-O", "raw", v.uri("vda"), salvaged)
	got, err := os.ReadFile(salvaged)
	if err != nil || len(got) != len(truth) {
		t.Fatalf("%d bytes were salvaged of %d: %v", len(got), len(truth), err)
	}
	lost := 0
	for at := 0; at < len(truth); at += piece {
		switch end := min(at+piece, len(truth)); {
		case string(got[at:end]) == string(truth[at:end]):
		case strings.Trim(string(got[at:end]), "\x00") == "":
			lost++ // qemu-img leaves zeros where it met an error
		default:
			t.Errorf("other bytes at offset %d", at)
		}
	}
	if lost != 1 {
		t.Errorf("%d clusters could not be read, one is damaged", lost)
	}
	copied := filepath.Join(t.TempDir(), "copied")
	if testdomain.TryTool(t, "nbdcopy", v.uri("vda"), copied) == nil {
		t.Error("nbdcopy has copied a damaged disk")
	}
	testdomain.Tool(t, "nbdcopy", v.uri("vdb"), copied)
	testsite.SameBytes(t, copied, p.Truth["vdb"])
	r := v.end()
	for _, words := range []string{"cannot read disk vda: ", s.Name + "/" + s.Points[0].ID + "/vda.qcow2", "differs from what was written"} {
		if !strings.Contains(r.Stderr, words) {
			t.Errorf("the log has no %q: %s", words, r.Stderr)
		}
	}
}

// What a killed server has left is in nobody's way.
func killed(t *testing.T, s *testsite.Site) {
	t.Helper()
	v := serve(t, s, s.Points[0].ID)
	v.Signal(syscall.SIGKILL)
	v.Wait()
	if _, err := os.Lstat(v.socket); err != nil {
		t.Fatal(err)
	}
	again := serve(t, s, s.Points[1].ID)
	again.wantTruth(s.Points[1])
	again.end()
}

// Bad input is refused, and changes nothing.
func refused(t *testing.T, s *testsite.Site) {
	t.Helper()
	v := serve(t, s, "latest")
	file := filepath.Join(t.TempDir(), "file")
	testsite.WriteFile(t, file, "mine")
	long := filepath.Join(s.Dir, strings.Repeat("x", 120))
	for _, tt := range []struct {
		code  int
		words string
		args  []string
	}{
		{1, "in use", []string{s.Name, "--socket", v.socket}},
		{1, "in use or no socket", []string{s.Name, "--socket", file}},
		{1, "no such file", []string{s.Name, "--socket", filepath.Join(s.Dir, "none", "sock")}},
		{2, "may have 107", []string{s.Name, "--socket", long}},
		{2, "exclude each other", []string{s.Name, "--socket", file, "--listen", "127.0.0.1:0"}},
		{2, "not an address of this host alone", []string{s.Name, "--listen", "0.0.0.0:10809"}},
		{2, "not an address of this host alone", []string{s.Name, "--listen", ":10809"}},
		{2, "is not the number of a port", []string{s.Name, "--listen", "127.0.0.1:99999"}},
		{2, "is not the number of a port", []string{s.Name, "--listen", "localhost:abc"}},
		{2, "--listen is empty", []string{s.Name, "--listen", ""}},
		{2, "--socket is empty", []string{s.Name, "--socket", ""}},
		{2, "an address and a port", []string{s.Name, "--listen", "127.0.0.1"}},
		{6, "no disk \"vdx\"", []string{s.Name, "--disk", "vdx", "--socket", file}},
		{6, "check99", []string{s.Name + "@check99", "--socket", file}},
		{6, "vbtest-none", []string{"vbtest-none", "--socket", file}},
	} {
		r := s.Program.Run(t, append([]string{"serve"}, tt.args...)...)
		if r.Code != tt.code || !strings.Contains(r.Stderr, tt.words) || !strings.Contains(r.Stderr, "hint: ") {
			t.Errorf("serve %q: exit %d, want %d and %q", tt.args, r.Code, tt.code, tt.words)
		}
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "mine" {
		t.Errorf("the file has %q, %v", data, err)
	}
	v.wantTruth(s.Points[2])
	v.end()
}

// A URI is printed as people write it, and clients understand it whatever the path.
func uris(t *testing.T, s *testsite.Site) {
	t.Helper()
	for _, tt := range []struct{ name, escaped string }{
		{"a.sock", "a.sock"},
		{"odd &=#%?+;:\u00e4\u20ac'", "odd%20%26%3D%23%25%3F%2B%3B%3A%C3%A4%E2%82%AC%27"},
	} {
		socket := filepath.Join(s.Dir, tt.name)
		p := s.Program.Start(t, "--quiet", "serve", s.Name, "--disk", "vda", "--socket", socket)
		testsite.Await(t, "the socket", 20*time.Millisecond, func() bool { return listens("unix", socket) })
		uri := "nbd+unix:///vda?socket=" + s.Dir + "/" + tt.escaped
		testdomain.Tool(t, "nbdinfo", "--size", uri)
		testdomain.Tool(t, "qemu-img", "info", uri)
		p.Signal(syscall.SIGINT)
		if r := p.Wait(); r.Code != 130 || strings.Contains(r.Stderr, "error") || r.Stdout != uri+"\n" {
			t.Errorf("exit %d, %q instead of %q, %s", r.Code, r.Stdout, uri, r.Stderr)
		}
	}
}
