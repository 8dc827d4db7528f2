package build

import (
	"io"
	"slices"

	"github.com/narfs/narfs/internal/nix"
)

// What the tests look at.

type (
	Scanner  struct{ *scanner }
	Rewriter struct{ *rewriter }
)

func NewScanner(candidates []nix.StorePath) Scanner { return Scanner{newScanner(candidates)} }
func (s Scanner) Found() []nix.StorePath            { return s.found() }
func (s Scanner) Size() uint64                      { return s.size }

func NewRewriter(w io.Writer, pairs map[string]string, watch string) Rewriter {
	r := newRewriter(w, pairs)
	r.watch = watch
	return Rewriter{r}
}
func (r Rewriter) Flush() error    { return r.flush() }
func (r Rewriter) Places() []int64 { return r.places }

func OutputPlaceholder(name string) string                    { return outputPlaceholder(name) }
func UpstreamPlaceholder(p nix.StorePath, name string) string { return upstreamPlaceholder(p, name) }

func Best(machines []Machine, system string, features, troubles []string, running map[string]int) (m *Machine, suitable bool) {
	failed := map[*Machine]string{}
	for i := range machines {
		if slices.Contains(troubles, machines[i].Store) {
			failed[&machines[i]] = "broken"
		}
	}
	return best(machines, requirement{system, features}, failed, running)
}
