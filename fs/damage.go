package fs

import (
	"log/slog"
	"sync"
	"time"
)

// damageLog tells of errors that a caller sees only as EIO: at most one line a second, because a damaged file that
// somebody reads gives one per request.
type damageLog struct {
	log *slog.Logger

	mu     sync.Mutex
	next   time.Time // guarded by mu: no line before
	silent int       // guarded by mu: errors since the last line
}

// report logs an error with the slot and the place below the store path; the error of the Source names the path.
func (d *damageLog) report(err error, slot uint32, where string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	if now.Before(d.next) {
		d.silent++
		return
	}
	d.log.Error("answering EIO; narfs verify tells more", "err", err, "slot", slot, "file", where, "more", d.silent)
	d.next, d.silent = now.Add(time.Second), 0
}
