//go:build !linux

package main

import (
	"errors"
	"os"
	"os/exec"
)

var errUnsupported = errors.New("bench needs Linux")

func dieWithParent(*exec.Cmd)         {}
func enlarge(*os.File)                {}
func flush(string) error              { return errUnsupported }
func evict(string) error              { return errUnsupported }
func preload(string) error            { return errUnsupported }
func dropCaches() error               { return errUnsupported }
func freeSpace(string) (int64, error) { return 0, errUnsupported }

// supported is an error on systems that bench cannot measure on.
func supported() error { return errUnsupported }
