package interop_test

import (
	"testing"

	"github.com/narfs/narfs/tests/env"
)

func TestMain(m *testing.M) { env.Main(m) }
