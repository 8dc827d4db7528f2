package session_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/narfs/narfs/daemon/acl"
	"github.com/narfs/narfs/daemon/session"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/daemon/workerproto"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nixwire"
)

// use is what a client of some version does with an operation: right use, of which the result is looked at.
type use struct {
	*workerClient

	s           *store.Store
	who         acl.Access
	known, user object // user refers to known
	made        made
	key         nix.SecretKey
	log         string // the folder of logs
}

// same is an error if two values are not.
func same[T any](got, want T, err error) error {
	if err != nil {
		return err
	}
	if diff := cmp.Diff(want, got, exact); diff != "" {
		return fmt.Errorf("wrong answer, -want +got:\n%s", diff)
	}
	return nil
}

var exact = cmp.Options{
	cmp.Comparer(func(a, b nix.StorePath) bool { return a == b }), cmp.Comparer(func(a, b nix.Hash) bool { return a == b }),
	cmp.Comparer(func(a, b []nix.StorePath) bool { return slices.Equal(a, b) }),
}

// valid is an error if a path is not what an object says.
func (u *use) valid(o object) error {
	info, err := u.s.PathInfo(o.Path)
	if err == nil && (info.NarHash != o.NarHash || info.NarSize != o.NarSize || !slices.Equal(info.References, o.References)) {
		err = fmt.Errorf("the store has %+v", info)
	}
	return err
}

func uses() map[workerproto.Operation]func(t *testing.T, u *use) error {
	return map[workerproto.Operation]func(t *testing.T, u *use) error{
		workerproto.IsValidPath: func(t *testing.T, u *use) error {
			t.Helper()
			if got, err := u.IsValidPath(somePath(t, "absent")); err != nil || got {
				return same(got, false, err)
			}
			got, err := u.IsValidPath(u.known.Path)
			return same(got, true, err)
		},
		workerproto.QueryReferrers: func(_ *testing.T, u *use) error {
			got, err := u.QueryReferrers(u.known.Path)
			return same(got, paths(u.user), err)
		},
		workerproto.AddToStore: func(t *testing.T, u *use) error {
			t.Helper()
			o := addressed(t, "added")
			info, err := u.AddToStore(workerproto.AddToStoreRequest{Name: "added", Method: nix.MethodNAR, Algo: nix.SHA256}, o.write)
			if err := same(info.Path, o.Path, err); err != nil {
				return err
			}
			content := []byte("a file")
			if !u.Version.AtLeast(1, 25) {
				content = archive("a file")
			}
			info, err = u.AddToStore(workerproto.AddToStoreRequest{Name: "flat", Method: nix.MethodFlat, Algo: nix.SHA1}, writing(content))
			if err != nil {
				return err
			}
			flat, err := u.s.PathInfo(info.Path)
			return errors.Join(same(flat.NarHash, someHash(archive("a file")), err), u.valid(o))
		},
		workerproto.AddTextToStore: func(_ *testing.T, u *use) error {
			p, err := u.AddTextToStore(workerproto.AddTextToStoreRequest{Name: "text", Text: "a text", References: paths(u.known)})
			if err != nil {
				return err
			}
			info, err := u.s.PathInfo(p)
			return same(info.References, paths(u.known), err)
		},
		workerproto.BuildPaths: func(_ *testing.T, u *use) error {
			return u.BuildPaths(workerproto.BuildPathsRequest{Paths: []workerproto.DerivedPath{{Path: u.known.Path}, {Path: u.made.file.Path, Built: true}}})
		},
		workerproto.EnsurePath: func(_ *testing.T, u *use) error { return u.EnsurePath(u.known.Path) },
		workerproto.AddTempRoot: func(t *testing.T, u *use) error {
			t.Helper()
			p := somePath(t, "coming")
			err := u.AddTempRoot(p)
			if _, ok := u.s.Pinned()[p]; err == nil && !ok {
				err = errors.New("the path is not held")
			}
			return err
		},
		workerproto.AddIndirectRoot: func(t *testing.T, u *use) error {
			t.Helper()
			link := rootLink(t, u.known.Path)
			if err := u.AddIndirectRoot(link); err != nil {
				return err
			}
			return isRoot(u.s, link)
		},
		workerproto.SyncWithGC: func(_ *testing.T, u *use) error { return u.SyncWithGC() },
		workerproto.FindRoots:  func(_ *testing.T, u *use) error { _, err := u.FindRoots(); return err },
		workerproto.QueryDeriver: func(_ *testing.T, u *use) error {
			got, err := u.QueryDeriver(u.user.Path)
			return same(got, u.user.Deriver, err)
		},
		workerproto.SetOptions: func(_ *testing.T, u *use) error {
			return u.SetOptions(workerproto.Options{Verbosity: workerproto.LevelError, Overrides: [][2]string{{"keep-outputs", "true"}}})
		},
		workerproto.CollectGarbage: func(_ *testing.T, u *use) error {
			got, err := u.CollectGarbage(workerproto.CollectGarbageRequest{Action: workerproto.GCReturnLive})
			if err == nil && got.Bytes != 0 {
				err = fmt.Errorf("looking freed %d bytes", got.Bytes)
			}
			return err
		},
		workerproto.QuerySubstitutablePathInfo: func(_ *testing.T, u *use) error {
			got, err := u.QuerySubstitutablePathInfo(u.known.Path)
			return same(got, false, err)
		},
		workerproto.QueryDerivationOutputs: func(_ *testing.T, u *use) error {
			got, err := u.QueryDerivationOutputs(u.made.file.Path)
			return same(got, paths(u.made.out), err)
		},
		workerproto.QueryAllValidPaths: func(_ *testing.T, u *use) error {
			got, err := u.QueryAllValidPaths()
			var want []nix.StorePath
			for info, serr := range u.s.All() {
				err = errors.Join(err, serr)
				want = append(want, info.Path)
			}
			return same(nix.SortPaths(got), nix.SortPaths(want), err)
		},
		workerproto.QueryPathInfo: func(t *testing.T, u *use) error {
			t.Helper()
			got, _, err := u.QueryPathInfo(u.user.Path)
			want, serr := u.s.PathInfo(u.user.Path)
			if !u.Version.AtLeast(1, 16) {
				want.Ultimate, want.Signatures, want.CA = false, nil, nix.ContentAddress{}
			}
			if err := same(got, want, err); err != nil || serr != nil {
				return errors.Join(err, serr)
			}
			_, ok, err := u.QueryPathInfo(somePath(t, "absent"))
			if old := !u.Version.AtLeast(1, 17); ok || old && !strings.Contains(textOf(err), "is not valid") || !old && err != nil {
				return fmt.Errorf("an absent path: %v, %w", ok, err)
			}
			return nil
		},
		workerproto.QueryDerivationOutputNames: func(_ *testing.T, u *use) error {
			got, err := u.QueryDerivationOutputNames(u.made.file.Path)
			return same(got, []string{"out"}, err)
		},
		workerproto.QueryPathFromHashPart: func(_ *testing.T, u *use) error {
			got, err := u.QueryPathFromHashPart(u.known.Path.HashPart())
			if err := same(got, u.known.Path, err); err != nil {
				return err
			}
			got, err = u.QueryPathFromHashPart(strings.Repeat("0", 32))
			if err := same(got, nix.StorePath{}, err); err != nil {
				return err
			}
			if _, err := u.QueryPathFromHashPart("short"); !strings.Contains(textOf(err), "hash part") {
				return fmt.Errorf("a short hash part: %w", err)
			}
			return nil
		},
		workerproto.QuerySubstitutablePathInfos: func(_ *testing.T, u *use) error {
			got, err := u.QuerySubstitutablePathInfos(paths(u.known, u.user))
			return same(got, 0, err)
		},
		workerproto.QueryValidPaths: func(t *testing.T, u *use) error {
			t.Helper()
			got, err := u.QueryValidPaths(workerproto.QueryValidPathsRequest{Paths: append(paths(u.known, u.user), somePath(t, "absent")), Substitute: true})
			return same(got, nix.SortPaths(paths(u.known, u.user)), err)
		},
		workerproto.QuerySubstitutablePaths: func(_ *testing.T, u *use) error {
			got, err := u.QuerySubstitutablePaths(paths(u.known))
			return same(got, nil, err)
		},
		workerproto.QueryValidDerivers: func(_ *testing.T, u *use) error {
			got, err := u.QueryValidDerivers(u.made.out.Path)
			want, serr := u.s.Derivers(u.made.out.Path)
			return same(got, want, errors.Join(err, serr))
		},
		workerproto.OptimiseStore: func(_ *testing.T, u *use) error { return u.OptimiseStore() },
		workerproto.VerifyStore: func(_ *testing.T, u *use) error {
			got, err := u.VerifyStore(workerproto.VerifyStoreRequest{CheckContents: true})
			return same(got, false, err)
		},
		workerproto.BuildDerivation: func(t *testing.T, u *use) error {
			t.Helper()
			other := someDerivation(t, "other")
			got, err := u.BuildDerivation(other.file.Path, &other.derivation.BasicDerivation, workerproto.BuildNormal)
			return same(got.Status, nixwire.MiscFailure, err)
		},
		workerproto.AddSignatures: func(_ *testing.T, u *use) error {
			o := u.known
			if err := o.Sign(nix.DefaultStoreDir, u.key); err != nil {
				return err
			}
			if err := u.AddSignatures(o.Path, o.Signatures); err != nil {
				return err
			}
			info, err := u.s.PathInfo(o.Path)
			return same(info.Signatures, o.Signatures, err)
		},
		workerproto.NarFromPath: func(_ *testing.T, u *use) error {
			var got bytes.Buffer
			err := u.NarFromPath(u.known.Path, func(r io.Reader) error { _, err := io.CopyN(&got, r, int64(u.known.NarSize)); return err })
			return same(got.Bytes(), u.known.archive, err)
		},
		workerproto.AddToStoreNar: func(t *testing.T, u *use) error {
			t.Helper()
			o := addressed(t, "by-its-nar")
			// Also where it is valid already.
			if err := addNar(u.workerClient, o, true); err != nil {
				return err
			}
			return errors.Join(addNar(u.workerClient, o, true), u.valid(o))
		},
		workerproto.QueryMissing: func(t *testing.T, u *use) error {
			t.Helper()
			got, err := u.QueryMissing([]workerproto.DerivedPath{{Path: u.known.Path}, {Path: u.made.file.Path, Built: true}, {Path: somePath(t, "absent")}})
			return same(got, workerproto.Missing{Unknown: []nix.StorePath{somePath(t, "absent")}}, err)
		},
		workerproto.QueryDerivationOutputMap: func(_ *testing.T, u *use) error {
			got, err := u.QueryDerivationOutputMap(u.made.file.Path)
			return same(got, []workerproto.OutputPath{{Name: "out", Path: u.made.out.Path}}, err)
		},
		workerproto.RegisterDrvOutput: func(t *testing.T, u *use) error {
			t.Helper()
			r := someDerivation(t, "registered").realisation()
			r.OutPath = u.known.Path
			if err := r.Sign(u.key); err != nil {
				return err
			}
			err := u.RegisterDrvOutput(realisationOf(t, r))
			if u.who.Level == acl.Untrusted && !u.Version.AtLeast(1, 31) { // has no signatures
				if textOf(err) != textOf(u.who.May(acl.Realise)) {
					return fmt.Errorf("an unsigned realisation: %w", err)
				}
				return nil
			}
			if err != nil {
				return err
			}
			got, err := u.s.Realisation(r.ID.String())
			return same(got.Path, u.known.Path, err)
		},
		workerproto.QueryRealisation: func(t *testing.T, u *use) error {
			t.Helper()
			got, err := u.QueryRealisation(u.made.id.String())
			want := realisationOf(t, u.made.realisation()).JSON
			if !u.Version.AtLeast(1, 31) {
				want = nix.DefaultStoreDir.Path(u.made.out.Path)
			}
			if err := same(got, want, err); err != nil {
				return err
			}
			got, err = u.QueryRealisation(someDerivation(t, "unknown").id.String())
			return same(got, "", err)
		},
		workerproto.AddMultipleToStore: func(t *testing.T, u *use) error {
			t.Helper()
			one, two := addressed(t, "one-of-several"), addressed(t, "another")
			if err := several(u.workerClient, true, one, two, one); err != nil {
				return err
			}
			return errors.Join(u.valid(one), u.valid(two))
		},
		workerproto.AddBuildLog: func(_ *testing.T, u *use) error {
			p := u.made.file.Path
			if err := u.AddBuildLog(p, writing([]byte("what was said\n"))); err != nil {
				return err
			}
			_, err := os.Stat(filepath.Join(u.log, "drvs", p.BaseName()[:2], p.BaseName()[2:]+".bz2"))
			return err
		},
		workerproto.BuildPathsWithResults: func(t *testing.T, u *use) error {
			t.Helper()
			got, err := u.BuildPathsWithResults(workerproto.BuildPathsRequest{Paths: []workerproto.DerivedPath{
				{Path: u.made.file.Path, Built: true, Outputs: []string{"out"}}, {Path: somePath(t, "absent")},
			}})
			if err != nil {
				return err
			}
			want := []nixwire.Status{nixwire.AlreadyValid, nixwire.NoSubstituters}
			return same([]nixwire.Status{got[0].Result.Status, got[1].Result.Status}, want, nil)
		},
		workerproto.AddPermRoot: func(t *testing.T, u *use) error {
			t.Helper()
			link := filepath.Join(t.TempDir(), "below", "link")
			got, err := u.AddPermRoot(workerproto.AddPermRootRequest{Path: u.known.Path, Root: link})
			if err := same(got, link, err); err != nil {
				return err
			}
			return isRoot(u.s, link)
		},
	}
}

// isRoot is an error if a link is not one.
func isRoot(s *store.Store, link string) error {
	entries, err := os.ReadDir(filepath.Join(s.StateDir(), "gcroots", "auto"))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if target, err := os.Readlink(filepath.Join(s.StateDir(), "gcroots", "auto", entry.Name())); err == nil && target == link {
			return nil
		}
	}
	return fmt.Errorf("%s is no root", link)
}

// inUse is a store for what uses do, and its manager.
func inUse(t *testing.T, settings ...string) (*use, *session.Manager) {
	t.Helper()
	key, err := nix.GenerateSecretKey("test-1")
	if err != nil {
		t.Fatal(err)
	}
	u := &use{s: open(t), known: someObject(t, "known"), made: someDerivation(t, "made"), key: key, log: t.TempDir()}
	u.user = someObject(t, "user", u.known.Path)
	u.user.Deriver = u.made.file.Path
	if err := u.user.Sign(nix.DefaultStoreDir, key); err != nil {
		t.Fatal(err)
	}
	imported(t, u.s, u.known, u.user)
	u.made.put(t, u.s)
	return u, manager(t, u.s, session.Options{LogDir: u.log}, append(settings, "trusted-public-keys="+key.Public().String())...)
}

// The table of the protocol: each operation, in each version, by each level of trust. Right use gives what the store has; what one may
// not do is refused, and the connection goes on; what a version does not have ends it.
func TestWorkerOperations(t *testing.T) {
	t.Parallel()
	does := uses()
	table := session.WorkerOps()
	if len(does) != len(table) {
		t.Errorf("%d operations are in the table, and %d are tested", len(table), len(does))
	}
	for minor := workerproto.Oldest.Minor; minor <= workerproto.Latest.Minor; minor++ {
		for _, who := range []acl.Access{trusted, untrusted, {User: "eve", Level: acl.Refused}} {
			t.Run(fmt.Sprintf("1.%d %s", minor, who.User), func(t *testing.T) {
				t.Parallel()
				u, m := inUse(t)
				u.who, u.workerClient = who, connectWorker(t, m, who, minor)
				for _, op := range table {
					if minor < op.Since {
						unknown(t, m, who, minor, op.Operation)
						continue
					}
					err := does[op.Operation](t, u)
					if refusal := who.May(op.Need); textOf(err) != textOf(refusal) || refusal != nil && !isRemote(err) {
						t.Errorf("%v: %v; want %v", op.Operation, err, refusal)
					}
					if who.Level != acl.Refused {
						u.usable(t)
					} else if err := u.SyncWithGC(); !isRemote(err) {
						t.Errorf("after %v: %v", op.Operation, err)
					}
				}
				if err := u.end(t); err != nil {
					t.Errorf("the session ended with %v", err)
				}
				nothingHeld(t, u.s, m)
			})
		}
	}
}

// unknown has an operation that a version does not have be refused.
func unknown(t *testing.T, m *session.Manager, who acl.Access, minor uint8, op workerproto.Operation) {
	t.Helper()
	c := connectWorker(t, m, who, minor)
	err := c.Do(op, func() {})
	if want := fmt.Sprintf("invalid operation %d", uint64(op)); textOf(err) != want || !isRemote(err) {
		t.Errorf("%v in 1.%d: %v; want %s", op, minor, err, want)
	}
	if err := c.end(t); err == nil {
		t.Errorf("%v in 1.%d did not end the connection", op, minor)
	}
}

// Operations that no version has, or no longer.
func TestWorkerUnknownOperation(t *testing.T) {
	t.Parallel()
	_, m := inUse(t)
	for _, op := range []workerproto.Operation{0, 2, 3, 4, 5, 15, 16, 17, 24, 25, 27, 48, 1000, 1001, 1 << 32, 1<<64 - 1} {
		unknown(t, m, trusted, 38, op)
	}
}
