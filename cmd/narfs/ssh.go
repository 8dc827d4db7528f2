package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/narfs/narfs/daemon/serveproto"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/ssh"
	"github.com/narfs/narfs/internal/wire"
)

func isSSH(store string) bool { return strings.HasPrefix(store, "ssh://") }

// endpoint is a store at the other end of the serve protocol.
type endpoint struct {
	*serveproto.Client

	name   string
	help   string       // if the conversation does not begin
	to     io.Closer    // what we write to
	from   io.Closer    // what we read from
	wait   func() error // until the other side has ended, and how; for many calls
	leave  func()       // makes it end, whatever it is doing
	said   *remarks     // its error output
	blamed bool         // for the error with which the copy ends
}

// partingTime is how long the other side may take to say what was wrong.
const partingTime = 10 * time.Second

// part hangs up and waits until the other side has ended, which has time to say what was wrong.
func (e *endpoint) part() error {
	_ = e.to.Close()
	timer := time.AfterFunc(partingTime, e.leave)
	defer timer.Stop()
	_ = e.from.Close() // who is writing a NAR would wait for its reader for ever
	return e.wait()
}

// end ends the connection after a copy with an error, or with none.
func (e *endpoint) end(err error) error {
	defer e.leave()
	switch {
	case err == nil:
		_ = e.to.Close()
		err = e.wait()
		_ = e.from.Close() // not before: it would look like a hang-up
		e.said.tell()
		return err
	case e.blamed:
		_ = e.part() // err says more
		e.said.tell()
	default:
		_ = e.to.Close()
		e.leave() // before it can complain of a reader that is gone
		_ = e.from.Close()
		_ = e.wait()
	}
	return nil
}

// open begins the conversation.
func (e *endpoint) open(ctx context.Context, r io.Reader, w io.Writer, dir nix.StoreDir) (*endpoint, error) {
	client, err := serveproto.Open(r, w, dir)
	if err != nil {
		if end := e.part(); end != nil {
			err = fmt.Errorf("%w (%w)", err, end)
		}
		err = e.explain(ctx, err)
		e.leave()
		e.said.tell()
		return nil, err
	}
	e.Client = client
	return e, nil
}

// openSSH starts the other side through the user's ssh, which may ask him for a password.
func (p *process) openSSH(ctx context.Context, address string, dir nix.StoreDir) (*endpoint, error) {
	t, err := ssh.Parse(address)
	if err != nil {
		return nil, usagef("%w", err)
	}
	e := &endpoint{
		name: address,
		help: "what it said stands above; nix-store must be found there, by a shell that is not interactive, and the store must let you in",
	}
	return p.start(ctx, e, dir, "ssh", t.Args(p.getenv("NIX_SSHOPTS"))...)
}

// start starts the program through which the other side is reached.
func (p *process) start(ctx context.Context, e *endpoint, dir nix.StoreDir, program string, args ...string) (*endpoint, error) {
	life, leave := context.WithCancel(ctx)
	cmd := exec.CommandContext(life, program, args...)
	said, err := listen(p.stderr)
	if err != nil {
		leave()
		return nil, err
	}
	cmd.Stderr = said.w
	stdin, err := cmd.StdinPipe()
	if err == nil {
		wide(stdin)
	}
	var stdout io.ReadCloser
	if err == nil {
		if stdout, err = cmd.StdoutPipe(); err == nil {
			wide(stdout)
			err = cmd.Start()
		}
	}
	if err != nil {
		leave()
		said.close()
		return nil, fmt.Errorf("%s: %w", e.name, err)
	}
	wait := func() error {
		err := cmd.Wait()
		said.close()
		return err
	}
	e.to, e.from, e.wait, e.said, e.leave = stdin, stdout, sync.OnceValue(wait), said, func() {
		_ = cmd.Process.Kill() // at once, which the end of a context is not
		leave()
	}
	return e.open(ctx, stdout, stdin, dir)
}

// explain says what an error of the connection means for the user, and that this side is to blame. Where it has ended, the error is
// what it said at its end.
func (e *endpoint) explain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	e.blamed = true
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	cause := hangupIn(err)
	if cause == nil {
		return fmt.Errorf("%s: %w", e.name, err)
	}
	_ = e.part()
	doing := strings.Replace(fmt.Sprintf("%s: %v", e.name, err), ": "+cause.Error(), "", 1)
	reason := e.said.reason()
	if reason == "" {
		reason = "the other side has ended"
	}
	// Not %w: it must not look like the end of whoever reads our own output.
	err = fmt.Errorf("%s: %s", doing, reason)
	switch {
	case isUnsigned(reason):
		return hint(err, signatureHint)
	case e.Client == nil && e.help != "":
		return hint(err, e.help)
	}
	return hint(err, "what else it said stands above")
}

// hangupIn returns what in an error says that the other side has ended, else nil.
func hangupIn(err error) error {
	if file, ok := errors.AsType[*os.PathError](err); ok && isBrokenPipe(file) {
		return file
	}
	for _, end := range []error{io.ErrUnexpectedEOF, os.ErrClosed, syscall.EPIPE} {
		if errors.Is(err, end) {
			return end
		}
	}
	return nil
}

// openLocal has the owner of the local store serve us, and starts one if need be.
func (p *process) openLocal(ctx context.Context, state string, dir nix.StoreDir, how compression) (*endpoint, error) {
	in, toOwner, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	fromOwner, out, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, in.Close(), toOwner.Close())
	}
	said, err := listen(p.stderr)
	if err != nil {
		return nil, errors.Join(err, in.Close(), toOwner.Close(), fromOwner.Close(), out.Close())
	}
	wide(toOwner)
	wide(fromOwner)
	sub := *p
	sub.args = []string{"--state", state, "serve", "--write", "--compression", how.String()}
	sub.stdin, sub.stdout, sub.stderr = in, out, said.w
	life, leave := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		err := sub.doElsewhere(life, true)
		_, _ = in.Close(), out.Close()
		said.close()
		done <- err
	}()
	wait := func() error { return <-done }
	e := &endpoint{name: state, to: toOwner, from: fromOwner, wait: sync.OnceValue(wait), said: said, leave: leave}
	return e.open(ctx, fromOwner, toOwner, dir)
}

// copySSH copies to or from a store behind ssh, or one of Nix on this machine. Ssh is this process's own affair, with the user's terminal and agent; the
// local store its owner's, which serves this process as it would serve any other client.
func (p *process) copySSH(ctx context.Context, args []string, o copyOptions) error {
	switch {
	case isSSH(o.to) && isSSH(o.from), o.to != "" && o.from != "":
		return usagef("copy needs either --to or --from")
	case o.to != "" && o.compresses:
		return usagef("--compression does not go with --to ssh://…: the other side decides how it stores what is new; ?compress=true " +
			"compresses on the way")
	case o.repair:
		return hint(usagef("--repair does not go through the protocol of nix-store"), "narfs repair --from mends a store of narfs")
	case o.all && o.from != "":
		return usagef("--all does not go with --from %s: the protocol has no way to ask for all paths", o.from)
	}
	m := p.meter("copy")
	defer m.close()
	state, err := p.stateDir()
	if err != nil {
		return err
	}
	if o.to != "" && !storeExists(state) {
		return hint(fmt.Errorf("no store in %s", state), "narfs add PATH makes one; --state DIR or $"+envState+" names another place")
	}
	// The owner tells the store directory and knows abbreviations, which need it to be there: another user's is, or cannot be started.
	startErr := p.startOwner(ctx, state)
	if startErr != nil && !errors.Is(startErr, iofs.ErrPermission) {
		return startErr
	}
	local := &remotePeer{p: p, dir: state}
	who, err := local.askIdentity(ctx)
	if err != nil {
		return err
	}
	local.storeDir = who.StoreDir
	var check signatureCheck
	// Those whom it does not trust, the owner refuses itself.
	if o.from != "" && !o.noCheckSigs && who.Trusted {
		if check, err = p.signatureCheck(); err != nil {
			return err
		}
	}
	here, err := p.openLocal(ctx, state, local.storeDir, o.compression)
	if err != nil {
		return err
	}
	address := firstOf(o.to, o.from)
	there, err := p.openThere(ctx, address, local.storeDir)
	if err != nil {
		return errors.Join(err, here.end(err))
	}
	if o.to != "" {
		err = p.copyToSSH(ctx, local, here, there, args, o, m)
	} else {
		err = p.copyFromSSH(ctx, here, there, args, o, check, m)
	}
	return errors.Join(err, there.end(err), here.end(err))
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func (p *process) copyToSSH(ctx context.Context, local *remotePeer, here, there *endpoint, args []string, o copyOptions, m *meter) error {
	infos, err := local.infos(ctx, args, !o.withoutRefs && !o.all)
	if err != nil {
		return err
	}
	// Who asks holds what he asked about.
	paths := pathsOf(infos)
	if infos, err = here.QueryPathInfos(paths); err != nil {
		return here.explain(ctx, err)
	}
	return p.copyOver(ctx, here, there, infos, o, signatureCheck{}, m)
}

func (p *process) copyFromSSH(ctx context.Context, here, there *endpoint, args []string, o copyOptions, check signatureCheck, m *meter) error {
	var wanted []nix.StorePath
	for _, arg := range args {
		sp, err := nix.ParseStorePath(there.Dir, arg)
		if err != nil {
			if sp, err = nix.ParseBaseName(arg); err != nil {
				return usagef("%q is not a store path in full, as paths of such a store must be", arg)
			}
		}
		wanted = append(wanted, sp)
	}
	if !o.withoutRefs {
		var err error
		if wanted, err = there.QueryClosure(wanted); err != nil {
			return there.explain(ctx, err)
		}
	}
	infos, err := there.QueryPathInfos(wanted)
	if err != nil {
		return there.explain(ctx, err)
	}
	valid := map[nix.StorePath]struct{}{}
	for _, info := range infos {
		valid[info.Path] = struct{}{}
	}
	for _, sp := range wanted {
		if _, ok := valid[sp]; !ok {
			return fmt.Errorf("%s: path '%s' is not valid", there.name, there.Dir.Path(sp))
		}
	}
	return p.copyOver(ctx, there, here, infos, o, check, m)
}

func pathsOf(infos []nix.PathInfo) []nix.StorePath {
	paths := make([]nix.StorePath, 0, len(infos))
	for _, info := range infos {
		paths = append(paths, info.Path)
	}
	return paths
}

// copyOver copies those of some paths that the one store does not have from the other.
func (p *process) copyOver(ctx context.Context, from, to *endpoint, infos []nix.PathInfo, o copyOptions, check signatureCheck, m *meter) error {
	valid, err := to.QueryValidPaths(pathsOf(infos), true, o.substitute)
	if err != nil {
		return to.explain(ctx, err)
	}
	there := map[nix.StorePath]struct{}{}
	for _, sp := range valid {
		there[sp] = struct{}{}
	}
	missing := sortedMissing(infos, there)
	if err := check.all(to.Dir, missing); err != nil {
		return err
	}
	total := int64(0)
	for _, info := range missing {
		if info.NarHash.IsZero() {
			return fmt.Errorf("%s speaks version %v of the protocol, without hashes: it must be Nix 2.0 or newer", from.name, from.Version)
		}
		total += int64(info.NarSize)
	}
	m.setTotal(total)
	var readErr, sendErr, printErr error
	err = from.DumpStorePaths(pathsOf(missing), func(i int, r *wire.Reader) error {
		info := missing[i]
		m.at(info.Path.Name())
		info.Ultimate = false
		sendErr = to.AddToStoreNar(info, func(w io.Writer) error {
			counted := &readerError{r: r}
			_, err := io.CopyN(m.writer(w), counted, int64(info.NarSize))
			readErr = counted.err
			return err
		}, func() { printErr = firstError(printErr, p.copied(to.Dir, info, m)) })
		return sendErr
	})
	switch {
	case readErr != nil:
		return from.explain(ctx, readErr)
	case sendErr != nil:
		return to.explain(ctx, sendErr)
	case err != nil:
		return from.explain(ctx, err)
	}
	if err := to.Finish(); err != nil {
		return to.explain(ctx, err)
	}
	return printErr
}

// readerError keeps an error of reading apart from one of writing.
type readerError struct {
	r   io.Reader
	err error
}

func (r *readerError) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // nobody reads further than the NAR
	}
	if err != nil {
		r.err = err
	}
	return n, err
}
