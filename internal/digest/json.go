package digest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// A JSON file that no other file has a digest of carries its own: the last member of the
// object, over all bytes of the file before it. The length is fixed, so
// `head -c -90 manifest.json | b3sum` checks it by hand.
const (
	tailStart = ",\n  \"digest\": \"" + Prefix
	tailEnd   = "\"\n}\n"

	// TailLength is the length of Tail, bytes.
	TailLength = len(tailStart) + 64 + len(tailEnd)
)

// EncodeJSON returns v as a JSON object with its digest as the last member.
func EncodeJSON(v any) ([]byte, error) {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, err
	}
	body := bytes.TrimSuffix(data, []byte("\n}"))
	return append(body, Tail(body)...), nil
}

// Tail is the end of a file of which body is all before it.
func Tail(body []byte) string {
	return tailStart + strings.TrimPrefix(Of(body), Prefix) + tailEnd
}

// EndsJSON tells whether data ends as what EncodeJSON returns does.
func EndsJSON(data []byte) bool {
	at := len(data) - TailLength
	return at >= 0 && bytes.HasPrefix(data[at:], []byte(tailStart))
}

// ParseJSON reads what EncodeJSON returned into v. The caller checks the format
// that v names, after this: one changed bit makes "format": 2 a newer one, so all formats
// have the digest in the same place.
func ParseJSON(data []byte, v any) error {
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("parse: %w", err)
	}
	at := len(data) - TailLength
	if at < 0 || string(data[at:]) != Tail(data[:at]) {
		return errors.New("content does not match its digest: damaged, or edited by hand")
	}
	return nil
}
