package builtin

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/ulikunitz/xz"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/nar"
)

// open begins to read what is at an URL.
func open(text string) (io.ReadCloser, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, err
	}
	if u.Scheme == "file" || u.Scheme == "" {
		return os.Open(u.Path)
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("unable to download '%s': the scheme '%s' is not supported", text, u.Scheme)
	}
	// Whoever answers, the hash of what comes is fixed.
	client := &http.Client{Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // as said
		ResponseHeaderTimeout: time.Minute, DisableCompression: true,
	}}
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, text, http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("unable to download '%s': %w", text, err)
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("unable to download '%s': HTTP error %d", text, resp.StatusCode)
	}
	return resp.Body, nil
}

func fetchurl(e env) (err error) {
	out, err := e.get("out")
	if err != nil {
		return err
	}
	from, err := e.get("url")
	if err != nil {
		return err
	}
	body := fromMirrors(e)
	if body == nil {
		if body, err = open(from); err != nil {
			return err
		}
	}
	defer body.Close() //nolint:errcheck // only read
	if e("unpack") == "1" {
		var src io.Reader = body
		if strings.HasSuffix(from, ".xz") {
			if src, err = xz.NewReader(bufio.NewReader(body)); err != nil {
				return err
			}
		}
		err = nar.Restore(src, out, nar.RestoreOptions{})
	} else {
		err = writeFile(out, body, 0o644)
	}
	if err == nil && e("executable") == "1" {
		err = os.Chmod(out, 0o755) //nolint:gosec // as told
	}
	return err
}

// EnvMirrors is the variable that names URLs, with spaces between, below which files stand as ALGO/HASH, the hash in base 16.
const EnvMirrors = "NARFS_HASHED_MIRRORS"

// fromMirrors begins to read a file from the first mirror that has it; nil if none has.
func fromMirrors(e env) io.ReadCloser {
	if mode := e("outputHashMode"); mode != "flat" {
		return nil
	}
	algo, err := nix.ParseAlgo(e("outputHashAlgo"))
	if err != nil {
		algo = 0
	}
	hash, err := nix.ParseHash(e("outputHash"), algo)
	if err != nil {
		return nil // then the file must come from its URL
	}
	for mirror := range strings.FieldsSeq(e(EnvMirrors)) {
		body, err := open(strings.TrimSuffix(mirror, "/") + "/" + hash.Algo().String() + "/" + hash.Base16())
		if err == nil {
			return body
		}
	}
	return nil
}

func writeFile(name string, src io.Reader, mode os.FileMode) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, src)
	return errors.Join(err, f.Close())
}

// decompressed recognises how a stream is compressed by its first bytes.
func decompressed(src io.Reader) (io.Reader, error) {
	r := bufio.NewReader(src)
	first, err := r.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(first, []byte{0x1f, 0x8b}):
		return gzip.NewReader(r)
	case bytes.HasPrefix(first, []byte("BZh")):
		return bzip2.NewReader(r), nil
	case bytes.HasPrefix(first, []byte("\xfd7zXZ\x00")):
		return xz.NewReader(r)
	default:
		return r, nil
	}
}

// unpackChannel unpacks a tarball with one folder, which gets the channel's name. Nothing is written outside.
func unpackChannel(e env) error {
	out, err := e.get("out")
	if err != nil {
		return err
	}
	name, err := e.get("channelName")
	if err != nil {
		return err
	}
	if name != filepath.Base(name) || name == "." || name == ".." {
		return fmt.Errorf("channelName is not allowed to contain filesystem separators, got %q", name)
	}
	src, err := e.get("src")
	if err != nil {
		return err
	}
	f, err := os.Open(src)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	r, err := decompressed(f)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil { //nolint:gosec // a store path
		return err
	}
	root, err := os.OpenRoot(out)
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // nothing to lose
	if err := untar(root, r); err != nil {
		return fmt.Errorf("unpack '%s': %w", src, err)
	}
	entries, err := os.ReadDir(out)
	if err != nil {
		return err
	}
	if len(entries) != 1 {
		return errors.New("channel tarball contains more than one file")
	}
	return os.Rename(filepath.Join(out, entries[0].Name()), filepath.Join(out, name))
}

// untar unpacks files, folders and links below a folder.
func untar(root *os.Root, src io.Reader) error {
	r := tar.NewReader(src)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := path.Clean(h.Name)
		if !filepath.IsLocal(name) {
			return fmt.Errorf("the member '%s' is outside", h.Name)
		}
		if name == "." {
			continue
		}
		if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
			return err
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(name, 0o755)
		case tar.TypeSymlink:
			err = root.Symlink(h.Linkname, name)
		case tar.TypeReg:
			mode := os.FileMode(0o644)
			if h.Mode&0o100 != 0 {
				mode = 0o755
			}
			err = untarFile(root, name, mode, r)
		case tar.TypeLink:
			err = root.Link(path.Clean(h.Linkname), name)
		case tar.TypeXGlobalHeader:
		default:
			err = fmt.Errorf("the member '%s' is of the type %q", h.Name, h.Typeflag)
		}
		if err != nil {
			return err
		}
	}
}

func untarFile(root *os.Root, name string, mode os.FileMode, src io.Reader) error {
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, src)
	return errors.Join(err, f.Close())
}
