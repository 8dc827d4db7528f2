package workerproto

import (
	"fmt"
	"io"
	"sync"

	"github.com/narfs/narfs/internal/nixwire"
	"github.com/narfs/narfs/internal/wire"
)

// The messages of a server that works.
const (
	msgNext          = 0x6f6c6d67
	msgRead          = 0x64617461
	msgWrite         = 0x64617416
	msgLast          = 0x616c7473
	msgError         = 0x63787470
	msgStartActivity = 0x53545254
	msgStopActivity  = 0x53544f50
	msgResult        = 0x52534c54
)

// Level says how much a message matters: the lower, the more.
type Level uint64

// The levels. Clients want to hear those up to one that they name.
const (
	LevelError Level = iota
	LevelWarn
	LevelNotice
	LevelInfo
	LevelTalkative
	LevelChatty
	LevelDebug
	LevelVomit
)

// ActivityType says what an activity does.
type ActivityType uint64

// The types of activities.
const (
	ActUnknown       ActivityType = 0
	ActCopyPath      ActivityType = 100
	ActFileTransfer  ActivityType = 101
	ActRealise       ActivityType = 102
	ActCopyPaths     ActivityType = 103
	ActBuilds        ActivityType = 104
	ActBuild         ActivityType = 105
	ActOptimiseStore ActivityType = 106
	ActVerifyPaths   ActivityType = 107
	ActSubstitute    ActivityType = 108
	ActQueryPathInfo ActivityType = 109
	ActPostBuildHook ActivityType = 110
	ActBuildWaiting  ActivityType = 111
)

// ResultType says what is told of an activity.
type ResultType uint64

// The types of results.
const (
	ResFileLinked       ResultType = 100
	ResBuildLogLine     ResultType = 101
	ResUntrustedPath    ResultType = 102
	ResCorruptedPath    ResultType = 103
	ResSetPhase         ResultType = 104
	ResProgress         ResultType = 105 // done, expected, running, failed
	ResSetExpected      ResultType = 106
	ResPostBuildLogLine ResultType = 107
)

// Field is a detail of an activity or of a result: a number or a text.
type Field struct {
	Int    uint64
	Text   string
	IsText bool
}

// Int and Text make fields.
func Int(n uint64) Field { return Field{Int: n} }

// Text makes a field of a text.
func Text(s string) Field { return Field{Text: s, IsText: true} }

// Activity is something that a server does and tells of.
type Activity struct {
	ID     uint64 // not 0
	Level  Level
	Type   ActivityType
	Text   string
	Fields []Field
	Parent uint64 // 0 for none
}

// tunnel is what a server's messages go through. Those of its goroutines that work for the client may all send some, while
// the server works.
type tunnel struct {
	mu      sync.Mutex // guards the rest, and, while there is work, the writer
	working bool
	gather  bool // messages wait to be flushed
	level   Level
}

// StartWork says that an operation's arguments have been read: from now on messages may be sent, until StopWork or Fail.
func (c *Conn) StartWork() {
	c.tunnel.mu.Lock()
	defer c.tunnel.mu.Unlock()
	c.tunnel.working, c.tunnel.gather = true, false
}

// Working reports whether StartWork was called, and neither StopWork nor Fail since.
func (c *Conn) Working() bool {
	c.tunnel.mu.Lock()
	defer c.tunnel.mu.Unlock()
	return c.tunnel.working
}

// SetLevel says which messages the client wants to hear: those of this level and below.
func (c *Conn) SetLevel(l Level) {
	c.tunnel.mu.Lock()
	defer c.tunnel.mu.Unlock()
	c.tunnel.level = l
}

// Hears reports whether the client wants to hear messages of a level.
func (c *Conn) Hears(l Level) bool {
	c.tunnel.mu.Lock()
	defer c.tunnel.mu.Unlock()
	return l <= c.tunnel.level
}

// StopWork says that the work is done. The result follows, and is to be flushed.
func (c *Conn) StopWork() error {
	c.tunnel.mu.Lock()
	defer c.tunnel.mu.Unlock()
	c.tunnel.working = false
	return c.W.Uint64(msgLast)
}

// Fail answers with an error, in place of a result, and flushes.
func (c *Conn) Fail(message string) error {
	c.tunnel.mu.Lock()
	defer c.tunnel.mu.Unlock()
	c.tunnel.working = false
	_ = c.W.Uint64(msgError) // the writer keeps its first error
	if c.Version.AtLeast(1, 26) {
		_ = c.W.String("Error")
		_ = c.W.Uint64(uint64(LevelError))
		_ = c.W.String("Error")
		_ = c.W.String(message)
		_ = c.W.Uint64(0) // no position
		_ = c.W.Uint64(0) // no traces
	} else {
		_ = c.W.String(message)
		_ = c.W.Uint64(1) // exit status
	}
	return c.W.Flush()
}

// Gather says that messages may wait for further ones, until FlushMessages is called, which is to be done soon, or the work is done.
func (c *Conn) Gather() {
	c.tunnel.mu.Lock()
	defer c.tunnel.mu.Unlock()
	c.tunnel.gather = true
}

// FlushMessages sends what waits, if there is work.
func (c *Conn) FlushMessages() error {
	c.tunnel.mu.Lock()
	defer c.tunnel.mu.Unlock()
	if !c.tunnel.working {
		return nil
	}
	return c.W.Flush()
}

// send sends a message, if there is work.
func (c *Conn) send(write func()) error {
	c.tunnel.mu.Lock()
	defer c.tunnel.mu.Unlock()
	if !c.tunnel.working {
		return nil
	}
	if write(); c.tunnel.gather {
		return nil
	}
	return c.W.Flush()
}

// Log sends a text, to which it adds the end of the line, to who wants to hear of that level.
func (c *Conn) Log(l Level, text string) error {
	if !c.Hears(l) {
		return nil
	}
	return c.send(func() {
		_ = c.W.Uint64(msgNext)
		_ = c.W.String(text + "\n")
	})
}

// StartActivity tells that something begins. Clients below 1.20 get its text.
func (c *Conn) StartActivity(a Activity) error {
	if !c.Version.AtLeast(1, 20) {
		if a.Text == "" {
			return nil
		}
		return c.Log(a.Level, a.Text+"...")
	}
	return c.send(func() {
		_ = c.W.Uint64(msgStartActivity)
		_ = c.W.Uint64(a.ID)
		_ = c.W.Uint64(uint64(a.Level))
		_ = c.W.Uint64(uint64(a.Type))
		_ = c.W.String(a.Text)
		c.writeFields(a.Fields)
		_ = c.W.Uint64(a.Parent)
	})
}

// StopActivity tells that something has ended.
func (c *Conn) StopActivity(id uint64) error {
	if !c.Version.AtLeast(1, 20) {
		return nil
	}
	return c.send(func() {
		_ = c.W.Uint64(msgStopActivity)
		_ = c.W.Uint64(id)
	})
}

// Result tells something of an activity.
func (c *Conn) Result(id uint64, t ResultType, fields ...Field) error {
	if !c.Version.AtLeast(1, 20) {
		return nil
	}
	return c.send(func() {
		_ = c.W.Uint64(msgResult)
		_ = c.W.Uint64(id)
		_ = c.W.Uint64(uint64(t))
		c.writeFields(fields)
	})
}

func (c *Conn) writeFields(fields []Field) {
	_ = c.W.Uint64(uint64(len(fields)))
	for _, f := range fields {
		_ = c.W.Bool(f.IsText)
		if f.IsText {
			_ = c.W.String(f.Text)
		} else {
			_ = c.W.Uint64(f.Int)
		}
	}
}

func (c *Conn) readFields() (fields []Field, err error) {
	n, err := c.R.Count(maxFields, "fields")
	if err != nil {
		return nil, nixwire.Unexpected(err)
	}
	for range n {
		var f Field
		kind, err := c.R.Uint64()
		switch {
		case err != nil:
			return nil, nixwire.Unexpected(err)
		case kind == 0:
			err = c.readNumbers(&f.Int)
		case kind == 1:
			f.IsText = true
			f.Text, err = c.ReadText(maxMessage, "field")
		default:
			err = fmt.Errorf("field of the unknown type %d", kind)
		}
		if err != nil {
			return nil, err
		}
		fields = append(fields, f)
	}
	return fields, nil
}

// asked is a stream that a client of 1.21 or 1.22 sends in pieces, each when it is asked for it.
type asked struct {
	c    *Conn
	left uint64 // of the present piece
	pad  uint64 // its length, for the padding
	err  error  // kept
}

// askSize is the longest piece that is asked for.
const askSize = 64 << 10

// Read implements io.Reader.
func (a *asked) Read(p []byte) (int, error) {
	if len(p) == 0 || a.err != nil {
		return 0, a.err
	}
	if a.left == 0 {
		if a.err = a.ask(); a.err != nil {
			return 0, a.err
		}
	}
	if uint64(len(p)) > a.left {
		p = p[:a.left]
	}
	n, err := a.c.R.Read(p)
	a.left -= uint64(n)
	if err == nil && a.left == 0 {
		err = a.c.R.Padding(a.pad)
	}
	a.err = nixwire.Unexpected(err)
	return n, a.err
}

// drain reads to the end of the present piece.
func (a *asked) drain() error {
	for a.left > 0 && a.err == nil {
		var some [512]byte
		_, _ = a.Read(some[:]) // the error is kept
	}
	return a.err
}

func (a *asked) ask() error {
	err := a.c.send(func() {
		_ = a.c.W.Uint64(msgRead)
		_ = a.c.W.Uint64(askSize)
	})
	if err != nil {
		return err
	}
	n, err := a.c.R.Uint64()
	switch {
	case err != nil:
		return nixwire.Unexpected(err)
	case n == 0:
		return io.ErrUnexpectedEOF
	case n > askSize:
		return &wire.LimitError{What: "piece of a stream", Len: n, Max: askSize}
	}
	a.left, a.pad = n, n
	return nil
}
