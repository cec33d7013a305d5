package extent

import (
	"fmt"
	"testing"
)

func TestStatus(t *testing.T) {
	if got := fmt.Sprint(Clean, Zero, Data, Status(9)); got != "clean zero data Status(9)" {
		t.Errorf("got %s", got)
	}
}
