//go:build !linux

package owner_test

import (
	"os"
	"testing"
)

func terminal(t *testing.T) *os.File {
	t.Helper()
	t.Skip("opens terminals on Linux only")
	return nil
}
