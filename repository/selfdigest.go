package repository

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// The manifest is the root of what a point's digests cover, so it carries its
// own: the last member of the object, over all bytes of the file before it. The
// length is fixed, so `head -c -90 manifest.json | b3sum` checks it by hand.
const (
	selfDigestStart  = ",\n  \"digest\": \"" + digestPrefix
	selfDigestEnd    = "\"\n}\n"
	selfDigestLength = len(selfDigestStart) + 64 + len(selfDigestEnd)
)

// encodeSelfDigested returns v as a JSON object with its digest as the last member.
func encodeSelfDigested(v any) ([]byte, error) {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, err
	}
	body := bytes.TrimSuffix(data, []byte("\n}"))
	return append(body, selfDigestTail(body)...), nil
}

func selfDigestTail(body []byte) string {
	return selfDigestStart + strings.TrimPrefix(digestBytes(body), digestPrefix) + selfDigestEnd
}

// hasSelfDigest tells whether data ends as what encodeSelfDigested returns does.
func hasSelfDigest(data []byte) bool {
	at := len(data) - selfDigestLength
	return at >= 0 && bytes.HasPrefix(data[at:], []byte(selfDigestStart))
}

// parseSelfDigested reads what encodeSelfDigested returned into v. A format that v names
// is for the caller to check, behind this: one changed bit makes "format": 2 a newer one,
// so all formats keep the digest in the same place.
func parseSelfDigested(data []byte, v any) error {
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("parse: %w", err)
	}
	at := len(data) - selfDigestLength
	if at < 0 || string(data[at:]) != selfDigestTail(data[:at]) {
		return errors.New("content does not match its digest: damaged, or edited by hand")
	}
	return nil
}
