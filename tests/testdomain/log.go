package testdomain

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// logOf is where a domain's QEMU prints to. virtlogd moves it to NAME.log.0,
// and what is there to .1, whenever it has grown to 2 MiB.
func logOf(name string) string {
	return filepath.Join("/var/log/libvirt/qemu", name+".log")
}

// tpmLogOf is where a domain's swtpm and swtpm_setup print to.
func tpmLogOf(name string) string {
	return filepath.Join("/var/log/swtpm/libvirt/qemu", name+"-swtpm.log")
}

// logPlace is a position in a domain's log.
type logPlace struct {
	file   string
	info   os.FileInfo // nil: no log yet
	inLine bool        // a line has begun before it
}

// readLog returns the present end of a log.
func readLog(file string) logPlace {
	p := logPlace{file: file}
	p.info, _ = os.Stat(p.file)
	if f, err := os.Open(p.file); err == nil && p.info != nil {
		last := []byte{'\n'}
		_, _ = f.ReadAt(last, max(0, p.info.Size()-1)) // nothing is read of an empty file
		p.inLine = last[0] != '\n'
		_ = f.Close()
	}
	return p
}

// until returns what has been printed since, up to a line with mark, and
// waits for that line: the text comes through virtlogd.
func (p logPlace) until(mark string) (string, error) {
	const most = 30 * time.Second
	var text string
	for start := time.Now(); time.Since(start) < most; time.Sleep(2 * time.Millisecond) {
		text = p.since()
		if before, _, found := strings.Cut(text, mark); found {
			return before, nil
		}
	}
	return text, fmt.Errorf("%q has not come up in %s within %s", mark, p.file, most)
}

// since returns the lines that have begun since, also where the log was moved.
func (p logPlace) since() string {
	text := p.rest()
	if p.inLine {
		_, text, _ = strings.Cut(text, "\n")
	}
	return text
}

func (p logPlace) rest() string {
	text, err := os.ReadFile(p.file)
	if err != nil || p.info == nil {
		return string(text)
	}
	now, err := os.Stat(p.file)
	if err == nil && os.SameFile(p.info, now) && int64(len(text)) >= p.info.Size() {
		return string(text[p.info.Size():])
	}
	old, err := os.ReadFile(p.file + ".0")
	if err != nil || int64(len(old)) < p.info.Size() {
		return ""
	}
	return string(old[p.info.Size():]) + string(text)
}

// RemoveLogs removes a domain's logs.
func RemoveLogs(name string) {
	files, _ := filepath.Glob(logOf(name) + "*")
	for _, file := range append(files, tpmLogOf(name)) {
		_ = os.Remove(file)
	}
}

// logTail puts the end of a file into the test's log.
func logTail(t testing.TB, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		return
	}
	const most = 4 << 10
	if len(text) > most {
		text = text[len(text)-most:]
	}
	t.Logf("the end of %s:\n%s", file, text)
}
