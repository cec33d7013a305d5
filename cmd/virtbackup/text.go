package main

import "fmt"

func orNone(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func seconds(s float64) string { return fmt.Sprintf("%.1f s", s) }
