package qcow2

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// qemuImg runs qemu-img, the judge of these tests. Without it they fail.
func qemuImg(t testing.TB, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("qemu-img", args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return out
}

// judge compares an image with the raw file that has what the guest should see.
func judge(t testing.TB, image, raw string) {
	t.Helper()
	qemuImg(t, "check", "-f", "qcow2", image)
	qemuImg(t, "compare", "-f", "qcow2", "-F", "raw", image, raw)
	back := image + ".raw"
	qemuImg(t, "convert", "-t", "unsafe", "-f", "qcow2", "-O", "raw", image, back)
	got, want := readFile(t, back), readFile(t, raw)
	if !bytes.Equal(got, want) {
		t.Fatalf("qemu-img convert gives other bytes than the model (%d and %d bytes)", len(got), len(want))
	}
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func writeFile(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// newRand is seeded anew for each run; VIRTBACKUP_SEED repeats one.
func newRand(t testing.TB) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("VIRTBACKUP_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("VIRTBACKUP_SEED: %v", err)
		}
	}
	t.Logf("VIRTBACKUP_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// fillRandom makes data that is different everywhere and never zero.
func fillRandom(r *rand.Rand, p []byte) {
	x := r.Uint64()
	for ; len(p) >= 8; p = p[8:] {
		x = x*6364136223846793005 + 1442695040888963407
		binary.LittleEndian.PutUint64(p, x|0x0101010101010101)
	}
	for i := range p {
		p[i] = 1
	}
}

// fillNoise makes data that nothing compresses.
func fillNoise(r *rand.Rand, p []byte) {
	x := r.Uint64()
	for len(p) > 0 {
		x += 0x9e3779b97f4a7c15 // splitmix64
		z := (x ^ x>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		var word [8]byte
		binary.LittleEndian.PutUint64(word[:], z^z>>31)
		p = p[copy(p, word[:]):]
	}
}

// fillText makes data that halves or better, and is different everywhere.
func fillText(r *rand.Rand, p []byte) {
	words := [16]string{"disk", "sector", "the", "of", "backup", "guest", "cluster", "0", "restore", "image", "and", "\n", "error", "in", "=", "kernel"}
	x := r.Uint64()
	for len(p) > 0 {
		x = x*6364136223846793005 + 1442695040888963407
		n := copy(p, words[x>>60])
		if n < len(p) {
			p[n] = 'a' + byte(x>>50)%16
			n++
		}
		p = p[n:]
	}
}

// fillMixed makes data of one of the kinds that a compressor meets: without any
// pattern, text, both, few different bytes without repetitions, a single byte.
func fillMixed(r *rand.Rand, p []byte) {
	switch r.IntN(5) {
	case 0:
		fillText(r, p)
	case 1:
		n := r.IntN(len(p))
		fillText(r, p[:n])
		fillNoise(r, p[n:])
	case 2:
		fillRandom(r, p)
		for i := range p {
			p[i] = 'a' + p[i]%16
		}
	case 3:
		one := 1 + byte(r.IntN(255))
		for i := range p {
			p[i] = one
		}
	default:
		fillNoise(r, p)
	}
}

// newImage makes a Writer on a fresh file below dir that checks the contract.
func newImage(t testing.TB, dir, name string, o Options) (*Writer, *checkedFile) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	checked := &checkedFile{t: t, file: f, sums: map[int64]uint64{}, busy: map[int64]bool{}, short: map[int64]int{}}
	w, err := NewWriter(checked, o)
	if err != nil {
		t.Fatal(err)
	}
	return w, checked
}
