package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
)

// Kernel is what a mount tells things to.
type Kernel = kernel

// Server is what answers the kernel, for tests without one.
type Server struct {
	*server

	Notes *notifier
}

// NewServer returns a server to which conn plays the kernel.
func NewServer(src Source, o Options, conn Kernel, flags uint64) *Server {
	o = o.withDefaults()
	s := &Server{server: newServer(src, o)}
	s.init(conn, flags, true)
	s.Notes = newNotifier(conn, o.Logger)
	return s
}

// Changed does what Added and Removed of a Mount do.
func (s *Server) Changed(name string) {
	s.root.changed()
	s.Notes.add(name)
}

// Close ends the goroutines.
func (s *Server) Close() {
	s.OnUnmount()
	s.Notes.close()
}

// Refs is Mount.Refs.
func (s *Server) Refs(slot uint32) int64 { return s.lookups.get(slot) }

// Drop is Mount.Drop.
func (s *Server) Drop(slot uint32) int64 { return s.drop(slot) }

// Loaded is how many trees are in memory and what they take.
func (s *Server) Loaded() (int, int64) { return s.objects.size() }

// Requests is Stats().Requests.
func (s *Server) Requests() map[string]int64 {
	var st Stats
	s.counts.fill(&st)
	return st.Requests
}

// Pushed is Stats().PushedBytes.
func (s *Server) Pushed() int64 { return s.counts.pushed.Load() }

// Names of unexported things.
var (
	NodeID    = nodeID
	SplitNode = splitNode
	Status    = status
	IsLitter  = isLitter
)

// Errnos returns the rows of the error table.
func Errnos() (errs []error, statuses []fuse.Status) {
	for _, row := range errnos() {
		errs, statuses = append(errs, row.err), append(statuses, row.status)
	}
	return errs, statuses
}

// PushRest is pushJob.rest.
func PushRest(size, start int64, data []byte, from, to int64) (left, right int64, leftData, rightData []byte) {
	j := pushJob{size: size, data: data, start: start, from: from, to: to}
	l, r := j.rest()
	return l.off, r.off, l.data, r.data
}

// ReleaseNames releases a slot without NOTIFY_PRUNE.
func (m *Mount) ReleaseNames(slot uint32) error {
	o, err := m.server.objects.get(slot)
	if err != nil {
		return err
	}
	m.server.releaseNames(m.conn, o)
	return nil
}

// Reload loads a slot again.
func (s *Server) Reload(slot uint32) {
	s.objects = newObjects(s.src, s.objects.naming, 1)
	if _, err := s.objects.get(slot); err != nil {
		panic(err)
	}
}
