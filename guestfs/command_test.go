package guestfs

import (
	"slices"
	"strings"
	"testing"
)

// arguments reads a line as guestfish does (fish.c: parse_command_line, parse_quoted_string), for
// arguments in double quotes.
func arguments(t *testing.T, line string) (args []string) {
	t.Helper()
	if strings.ContainsAny(line, "\n\r\x00") {
		t.Fatalf("%q is several lines", line)
	}
	_, rest, _ := strings.Cut(line, " ")
	for rest != "" {
		rest = strings.TrimLeft(rest, " ")
		if rest[0] != '"' {
			t.Fatalf("%q is not quoted", rest)
		}
		var arg []byte
		i := 1
		for ; rest[i] != '"'; i++ {
			if rest[i] != '\\' {
				arg = append(arg, rest[i])
				continue
			}
			if rest[i+1] != 'x' {
				t.Fatalf("another escape: %q", rest[i:])
			}
			const digits = "0123456789abcdef"
			arg = append(arg, byte(strings.IndexByte(digits, rest[i+2])<<4|strings.IndexByte(digits, rest[i+3])))
			i += 3
		}
		args, rest = append(args, string(arg)), rest[i+1:]
		if rest != "" && rest[0] != ' ' {
			t.Fatalf("%q follows an argument", rest)
		}
	}
	return args
}

var hostile = []string{"/plain", "", "-rf", "--", `"`, `\`, `\"`, "a b", "\n!touch x\n", "\r", "\t", "'", "|sh", "<<END", "~", "*", "\xff\xfe", "\x1b[31m", "\x7f", "é", "$(id)"}

func TestCommand(t *testing.T) {
	line, err := command("lstatns", hostile...)
	if err != nil {
		t.Fatal(err)
	}
	if got := arguments(t, line); !slices.Equal(got, hostile) {
		t.Errorf("%q becomes %q", hostile, got)
	}
	if !strings.HasPrefix(line, `lstatns "/plain" `) {
		t.Errorf("the command is %q", line)
	}
	for name, arg := range map[string]string{"a zero byte": "/a\x00b", "a line that guestfish would split": "/" + strings.Repeat("\n", maxLine/4)} {
		if line, err := command("lstatns", arg); err == nil {
			t.Errorf("%s: %.80q", name, line)
		}
	}
}

func FuzzCommand(f *testing.F) {
	for _, s := range hostile {
		f.Add(s, "/x")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		line, err := command("cat", a, b)
		if err != nil {
			return
		}
		if got := arguments(t, line); !slices.Equal(got, []string{a, b}) || len(line) > maxLine {
			t.Errorf("%q, %q become %q", a, b, got)
		}
	})
}

// listed reads a list as guestfish does (fish.c: parse_string_list).
func listed(t *testing.T, text string) (names []string) {
	t.Helper()
	for text != "" {
		text = strings.TrimLeft(text, " ")
		if text[0] != '\'' {
			t.Fatalf("%q is not quoted", text)
		}
		name, rest, ok := strings.Cut(text[1:], "'")
		if !ok || strings.HasSuffix(name, `\`) {
			t.Fatalf("%q does not end", text)
		}
		names, text = append(names, name), rest
	}
	return names
}

// Lists have all names, in their order, and a line of guestfish has room for each.
func TestLists(t *testing.T) {
	var names []string
	for i := range 500 {
		names = append(names, strings.Repeat("\n", i%256+1)+" x")
	}
	var got []string
	for _, batch := range lists(names) {
		if _, err := command("lstatnslist", "/"+strings.Repeat("d", 255), list(batch)); err != nil {
			t.Error(err)
		}
		got = append(got, listed(t, list(batch))...)
	}
	if !slices.Equal(got, names) {
		t.Error("the lists have other names")
	}
	if len(lists(nil)) != 0 {
		t.Error("no names make a list")
	}
	for name, want := range map[string]bool{"a b": true, "\n": true, "'": false, `a\`: false, `"`: true, strings.Repeat("x", maxList): false} {
		if listable(name) != want {
			t.Errorf("%.20q: listable is %t", name, !want)
		}
	}
}
