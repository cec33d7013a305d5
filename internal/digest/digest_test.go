package digest

import (
	"bytes"
	"testing"
)

func TestOf(t *testing.T) {
	// The empty input of the BLAKE3 test vectors.
	const want = "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
	if got := Of(nil); got != want || !Valid(got) {
		t.Errorf("got %s, valid %v, want %s", got, Valid(got), want)
	}
	for _, s := range []string{"", "blake3:", want + "0", want[:len(want)-1], "blake3:" + want[8:] + "G", "BLAKE3:" + want[7:], want[7:]} {
		if Valid(s) {
			t.Errorf("%q was accepted", s)
		}
	}
}

// Each bit of a file counts, of its digest too.
func TestJSON(t *testing.T) {
	type content struct {
		Name string `json:"name"`
	}
	data, err := EncodeJSON(content{"vm1"})
	if err != nil || !EndsJSON(data) {
		t.Fatalf("%s, %v", data, err)
	}
	var got content
	if err := ParseJSON(data, &got); err != nil || got.Name != "vm1" {
		t.Errorf("got %+v, %v", got, err)
	}
	for i := range data {
		changed := bytes.Clone(data)
		changed[i] ^= 1
		if ParseJSON(changed, new(content)) == nil {
			t.Errorf("a change of byte %d was not noticed", i)
		}
	}
	if EndsJSON([]byte(`{"name":"vm1"}`)) {
		t.Error("JSON without a digest seems to have one")
	}
}
