package restore

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/repository"
)

// TestMain is a restore of its own in processes that TestLongChains starts.
func TestMain(m *testing.M) {
	if dir := os.Getenv("RESTORE_ALONE"); dir != "" {
		if err := restoreAlone(dir, os.Getenv("RESTORE_FROM")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// restoreAlone restores, and prints the peak of memory in KiB and of open files.
func restoreAlone(dir, from string) error {
	repo, err := repository.Open(from)
	if err != nil {
		return err
	}
	most, stop, stopped := 0, make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			open, _ := os.ReadDir("/proc/self/fd")
			most = max(most, len(open))
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	_, err = Run(context.Background(), repo, Request{Domain: "vm1", Dir: dir})
	close(stop)
	<-stopped
	fmt.Println("files", most)
	status, _ := os.Open("/proc/self/status")
	defer status.Close()
	for lines := bufio.NewScanner(status); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "VmHWM:"); ok {
			fmt.Println("memory", strings.Fields(value)[0])
		}
	}
	return err
}

// The memory and the open files of a restore do not grow with its chain.
func TestLongChains(t *testing.T) {
	if testing.Short() {
		t.Skip("340 images take long")
	}
	lengths := []int{1, 100, 340}
	if extra, err := strconv.Atoi(os.Getenv("VIRTBACKUP_LINKS")); err == nil {
		lengths = append(lengths, extra)
	}
	const size = 1 << 40
	for _, n := range lengths {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			repo, _ := chainOf(t, n, size, func(link int) []int64 {
				// Clusters that all have, and some of its own.
				return []int64{0, 1 << 30, 512 << 30, 700<<30 + int64(link)*cluster, int64(link+1)<<29 + 5*cluster}
			})
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "RESTORE_ALONE="+filepath.Join(t.TempDir(), "out"), "RESTORE_FROM="+repo.Dir())
			cmd.Stderr = os.Stderr
			start := time.Now()
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			var files, memory int
			if _, err := fmt.Sscanf(string(out), "files %d\nmemory %d", &files, &memory); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			t.Logf("%d links: %d KiB, %d open files, %v", n, memory, files, time.Since(start).Round(time.Millisecond))
			// 64 files of the chain, the image and the runtime's; the budget is 96 MiB, and 32 for the disk.
			if files > 90 || memory > 128<<10 && !raceDetector {
				t.Errorf("%d links: %d KiB of memory, %d open files", n, memory, files)
			}
		})
	}
}

// Where fewer files may be open than are kept open, fewer are; where that is too
// few, the error is EMFILE, and nothing is left. The soft limit is raised to the
// hard one.
func TestFewOpenFiles(t *testing.T) {
	repo, _ := chainOf(t, 100, 1<<30, func(link int) []int64 { return []int64{int64(link) * cluster} })
	for limits, works := range map[string]bool{"40:40": true, "12:1024": true, "9:9": false} {
		dir := filepath.Join(t.TempDir(), "out")
		cmd := exec.Command("prlimit", "--nofile="+limits, os.Args[0])
		cmd.Env = append(os.Environ(), "RESTORE_ALONE="+dir, "RESTORE_FROM="+repo.Dir())
		out, err := cmd.CombinedOutput()
		_, left := os.Stat(dir)
		if works != (err == nil) || works != (left == nil) || !works && !strings.Contains(string(out), "too many open files") {
			t.Errorf("limits %s: %v, %v: %s", limits, err, left, out)
		}
	}
}
