package cas

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// The file unsynced in the store's folder says that the index may know of commits that are not on the disk yet: it holds the
// name of the system's present run. If the system has been started again since, what a lazy commit wrote may be lost
// while the index has it, so that the index cannot be used. If only the process has ended, nothing is lost.
const unsyncedFile = "unsynced"

// markUnsynced makes the mark. It reports false if the run of the system has no name, and there is none.
func (s *Store) markUnsynced() (ok bool, err error) {
	boot := s.opts.BootID()
	if boot == "" {
		return false, nil
	}
	if err := writeSynced(filepath.Join(s.dir, unsyncedFile), boot+"\n"); err != nil {
		return false, fmt.Errorf("mark what is not on the disk yet: %w", err)
	}
	s.unsynced = true
	return true, syncDir(s.dir)
}

// unmarkUnsynced takes the mark away: the log is on the disk.
func (s *Store) unmarkUnsynced() error {
	if err := os.Remove(filepath.Join(s.dir, unsyncedFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	s.unsynced = false
	return nil
}

// checkUnsynced says whether the index may know more than the disk. If it need not be so, opening makes it so.
func (s *Store) checkUnsynced() error {
	text, err := os.ReadFile(filepath.Join(s.dir, unsyncedFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	s.unsynced = true
	if boot := s.opts.BootID(); boot == "" || strings.TrimSpace(string(text)) != boot {
		return fmt.Errorf("%w: the system went down before the last commits were on the disk", ErrIndex)
	}
	return nil
}
