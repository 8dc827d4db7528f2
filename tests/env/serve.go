package env

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// Serve is a raw client of Nix's serve protocol, for what no real client does. Its methods fail the test where the
// other side does not answer.
type Serve struct {
	Cmd    *exec.Cmd
	Stdin  io.WriteCloser
	Stdout io.ReadCloser
	Stderr *bytes.Buffer // readable when Cmd has ended

	tb testing.TB
	r  *bufio.Reader
}

// Numbers of the protocol.
const (
	ServeQueryValidPaths = 1
	ServeQueryPathInfos  = 2
	ServeDumpStorePath   = 3
	ServeImportPaths     = 4
	ServeAddToStoreNar   = 9
)

// Wire encodes numbers, strings and raw bytes as they go over the wire.
func Wire(parts ...any) []byte {
	var b []byte
	for _, part := range parts {
		switch v := part.(type) {
		case int:
			b = binary.LittleEndian.AppendUint64(b, uint64(v))
		case string:
			b = binary.LittleEndian.AppendUint64(b, uint64(len(v)))
			b = append(append(b, v...), make([]byte, -len(v)&7)...)
		case []string:
			b = append(b, Wire(len(v))...)
			for _, s := range v {
				b = append(b, Wire(s)...)
			}
		case []byte:
			b = append(b, v...)
		default:
			panic(fmt.Sprintf("Wire(%T)", part))
		}
	}
	return b
}

// StartServe starts a server on pipes and greets it.
func StartServe(tb testing.TB, cmd *exec.Cmd) *Serve {
	tb.Helper()
	s := &Serve{Cmd: cmd, Stderr: &bytes.Buffer{}, tb: tb}
	var err error
	if s.Stdin, err = cmd.StdinPipe(); err != nil {
		tb.Fatal(err)
	}
	if s.Stdout, err = cmd.StdoutPipe(); err != nil {
		tb.Fatal(err)
	}
	cmd.Stderr = s.Stderr
	dieWithParent(cmd)
	cmd.WaitDelay = Patience
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	s.r = bufio.NewReader(s.Stdout)
	s.Send(0x390c9deb, 2<<8|7)
	if magic, version := s.Number(), s.Number(); magic != 0x5452eecb || version != 2<<8|7 {
		tb.Fatalf("the server greets with %#x, %#x", magic, version)
	}
	return s
}

// Send sends parts as Wire encodes them.
func (s *Serve) Send(parts ...any) {
	s.tb.Helper()
	if _, err := s.Stdin.Write(Wire(parts...)); err != nil {
		s.tb.Fatalf("sending: %v", err)
	}
}

// TryNumber reads a number.
func (s *Serve) TryNumber() (uint64, error) {
	var b [8]byte
	_, err := io.ReadFull(s.r, b[:])
	return binary.LittleEndian.Uint64(b[:]), err
}

// Number reads a number that must come.
func (s *Serve) Number() uint64 {
	s.tb.Helper()
	n, err := s.TryNumber()
	if err != nil {
		s.tb.Fatalf("reading the answer: %v", err)
	}
	return n
}

// Strings reads a list of strings.
func (s *Serve) Strings() []string {
	s.tb.Helper()
	list := make([]string, 0, 16)
	for range s.Number() {
		n := int(s.Number())
		b := make([]byte, n+(-n&7))
		if _, err := io.ReadFull(s.r, b); err != nil {
			s.tb.Fatal(err)
		}
		list = append(list, string(b[:n]))
	}
	return list
}

// Skip reads bytes and forgets them.
func (s *Serve) Skip(n int64) {
	s.tb.Helper()
	if _, err := io.CopyN(io.Discard, s.r, n); err != nil {
		s.tb.Fatalf("reading %d bytes: %v", n, err)
	}
}

// End closes the client's side, waits for the server's end and returns how it ended.
func (s *Serve) End() Result {
	s.tb.Helper()
	_ = s.Stdin.Close()
	_, _ = io.Copy(io.Discard, s.r)
	_ = s.Cmd.Wait()
	return Result{s.Cmd.ProcessState.ExitCode(), "", strings.TrimSpace(s.Stderr.String())}
}
