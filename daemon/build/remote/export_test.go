package remote

import (
	"io"
	"os"
)

// Ears hear what is written.
type Ears struct{ e *ears }

func Listen() (Ears, *os.File, error) {
	e, w, err := listen()
	return Ears{e}, w, err
}
func (e Ears) To(log io.Writer) { e.e.to(log) }
func (e Ears) All() int64       { return e.e.all() }
func (e Ears) Words() string    { return e.e.words() }
func (e Ears) Close()           { e.e.close() }
