package main

import (
	"bufio"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/narfs/narfs/daemon/acl"
)

// defineOptions defines the flag that overrides settings.
func (p *process) defineOptions(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&p.options, "option", nil, "set the setting `NAME=VALUE` over what the files say; may come several times")
}

func newConfig(p *process) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "config [NAME...]",
		Short: "Show the settings, and where they come from",
		Long: "Show the settings that narfs takes from the files of Nix and its own, in this order, the later ones winning: " +
			"$NIX_CONF_DIR/nix.conf, else /etc/nix/nix.conf; $NARFS_CONF, else /etc/narfs/narfs.conf; the text in $NIX_CONFIG. All have " +
			"the syntax of nix.conf, with include and extra-. A daemon takes them at its start, and again at SIGHUP.\n\n" +
			"  allowed-users        users and @groups who may use the daemon, * for all\n" +
			"  trusted-users        those who may add what is not signed, and see to others' sessions\n" +
			"  build-users-group    whoever has this primary group is refused\n" +
			"  require-sigs         whether what others add must be signed or content-addressed\n" +
			"  trusted-public-keys  whose signatures count\n" +
			"  secret-key-files     with what narfs sign signs; these signatures count, too\n" +
			"  keep-derivations, keep-outputs   what narfs gc keeps beside what is referred to\n" +
			"  lock-timeout         seconds to wait for who adds the same path, 0 for ever\n" +
			"  shutdown-timeout     seconds that clients get when the daemon ends\n" +
			"  max-sessions         of users who are not trusted, 0 for any number\n" +
			"  memory-budget        what the requests of all sessions together may take, such as 512M; 0 for no limit\n\n" +
			"of other machines that build:\n\n" +
			"  builders             these, in lines or with ; between, or @FILE: STORE SYSTEM,… KEYFILE JOBS SPEED FEATURE,… MANDATORY,… HOSTKEY;\n" +
			"                       the file machines beside nix.conf, if nothing is set\n" +
			"  builders-use-substitutes   whether they may get inputs from binary caches\n\n" +
			"and of builds: cores, extra-platforms, keep-build-log, keep-failed, keep-going, log-lines, max-build-log-size, max-jobs, " +
			"max-silent-time, sandbox, sandbox-paths, system, system-features, timeout, as in Nix.",
		Args: operands(0, many),
		RunE: func(_ *cobra.Command, args []string) error { return p.config(args, asJSON) },
	}
	p.defineOptions(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON list")
	return cmd
}

func (p *process) config(names []string, asJSON bool) error {
	s, err := acl.Load(acl.LoadOptions{Getenv: p.getenv, Options: p.options})
	if err != nil {
		return err
	}
	for _, text := range s.Warnings {
		p.remark("narfs: %s\n", printable(text))
	}
	chosen := []acl.Value{}
	for _, v := range s.Values() {
		if len(names) == 0 || slices.Contains(names, v.Name) {
			chosen = append(chosen, v)
		}
	}
	for _, name := range names {
		if !slices.ContainsFunc(chosen, func(v acl.Value) bool { return v.Name == name }) {
			return usagef("there is no setting %q", name)
		}
	}
	if asJSON {
		return p.printJSON(chosen)
	}
	return buffered(p.stdout, func(w *bufio.Writer) error {
		for _, v := range chosen {
			line := v.Name + " = " + printable(v.Value)
			if v.Origin != "default" {
				line += strings.Repeat(" ", max(1, 44-len(line))) + "# " + printable(v.Origin)
			}
			if _, err := fmt.Fprintln(w, line); err != nil {
				return err
			}
		}
		return nil
	})
}
