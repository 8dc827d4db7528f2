package sandbox_test

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/narfs/narfs/daemon/build/sandbox"
)

// fill gives each field another value than zero, and another than its neighbours.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.Struct:
		for _, field := range v.Fields() {
			fill(field, n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 3, 3))
		for i := range v.Len() {
			fill(v.Index(i), n)
		}
	case reflect.String:
		v.SetString(fmt.Sprintf("text %d \xff", *n)) // environments need not be UTF-8
	case reflect.Int:
		v.SetInt(int64(*n))
	case reflect.Bool:
		v.SetBool(true)
	default: // Log and CPU, which are not the child's
	}
}

// The child is told all that Run was told.
func TestOrder(t *testing.T) {
	t.Parallel()
	var o sandbox.Order
	n := 0
	fill(reflect.ValueOf(&o).Elem(), &n)
	for _, want := range []sandbox.Order{o, {}} {
		f, err := sandbox.Sealed(want)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close() //nolint:errcheck // in memory
		for range 2 {   // the keeper, and the builder to be
			if got, err := sandbox.ReadOrder(f); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%+v becomes %+v: %v", want, got, err)
			}
		}
	}
}
