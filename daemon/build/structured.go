package build

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nixwire"
)

// structured writes the files of structured attributes, which the environment then does not have, and names them there: .attrs.json has all,
// .attrs.sh what bash can have.
func (a *attempt) structured(env map[string]string) error {
	g := a.g
	var attrs map[string]any
	d := json.NewDecoder(strings.NewReader(g.d.Env["__json"]))
	d.UseNumber()
	if err := d.Decode(&attrs); err != nil {
		return fail(nixwire.MiscFailure, "cannot process __json attribute of '%s': %v", g.b.print(g.path), err)
	}
	outputs := map[string]any{}
	for name := range g.d.Outputs {
		outputs[name] = a.rewrite(outputPlaceholder(name))
	}
	attrs["outputs"] = outputs
	if graph, ok := attrs["exportReferencesGraph"].(map[string]any); ok {
		for name, value := range graph {
			list, err := a.graphJSON(value)
			if err != nil {
				return err
			}
			attrs[name] = list
		}
	}
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	if err := e.Encode(attrs); err != nil {
		return err
	}
	if err := a.writeFile(".attrs.json", a.rewrite(strings.TrimSuffix(text.String(), "\n"))); err != nil {
		return err
	}
	if err := a.writeFile(".attrs.sh", a.rewrite(shellOf(attrs))); err != nil {
		return err
	}
	env["NIX_ATTRS_JSON_FILE"], env["NIX_ATTRS_SH_FILE"] = filepath.Join(a.inside, ".attrs.json"), filepath.Join(a.inside, ".attrs.sh")
	return nil
}

// graphJSON tells of the closure of the paths in a list, as nix path-info --json does, with sizes of closures.
func (a *attempt) graphJSON(value any) (list []map[string]any, err error) {
	g := a.g
	names, ok := value.([]any)
	if !ok {
		names = []any{value}
	}
	var start []nix.StorePath
	for _, name := range names {
		text, _ := name.(string)
		p, err := nix.ParseStorePath(g.b.store.Dir(), a.rewrite(text))
		if err != nil {
			return nil, err
		}
		if !slices.Contains(a.closure, p) {
			return nil, fail(nixwire.MiscFailure, "cannot export references of path '%s' because it is not in the input closure of the derivation", g.b.print(p))
		}
		start = append(start, p)
	}
	closure, err := g.b.store.Closure(start...)
	if err != nil {
		return nil, err
	}
	for _, p := range closure {
		info, err := g.b.store.PathInfo(p)
		if err != nil {
			return nil, err
		}
		refs := []string{}
		for _, ref := range info.References {
			refs = append(refs, g.b.print(ref))
		}
		below, err := g.b.store.Closure(p)
		if err != nil {
			return nil, err
		}
		size := uint64(0)
		for _, q := range below {
			qi, err := g.b.store.PathInfo(q)
			if err != nil {
				return nil, err
			}
			size += qi.NarSize
		}
		obj := map[string]any{
			"path": g.b.print(p), "narHash": info.NarHash.String(), "narSize": info.NarSize, "references": refs, "closureSize": size, "valid": true,
		}
		if !info.CA.IsZero() {
			obj["ca"] = info.CA.String()
		}
		list = append(list, obj)
	}
	return list, nil
}

// shellOf declares what bash can have: strings, integers, null, booleans, and lists and sets of these.
func shellOf(attrs map[string]any) string {
	variable := regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		if !variable.MatchString(name) {
			continue
		}
		switch v := attrs[name].(type) {
		case []any:
			if words, ok := shellWords(v); ok {
				fmt.Fprintf(&text, "declare -a %s=(%s)\n", name, words)
			}
		case map[string]any:
			if words, ok := shellPairs(v); ok {
				fmt.Fprintf(&text, "declare -A %s=(%s)\n", name, words)
			}
		default:
			if word, ok := shellWord(v); ok {
				fmt.Fprintf(&text, "declare %s=%s\n", name, word)
			}
		}
	}
	return text.String()
}

func shellWords(list []any) (string, bool) {
	var words strings.Builder
	for _, v := range list {
		word, ok := shellWord(v)
		if !ok {
			return "", false
		}
		words.WriteString(word + " ")
	}
	return words.String(), true
}

func shellPairs(set map[string]any) (string, bool) {
	var words strings.Builder
	for _, name := range slices.Sorted(maps.Keys(set)) {
		word, ok := shellWord(set[name])
		if !ok {
			return "", false
		}
		fmt.Fprintf(&words, "[%s]=%s ", shellQuote(name), word)
	}
	return words.String(), true
}

func shellWord(value any) (string, bool) {
	switch v := value.(type) {
	case string:
		return shellQuote(v), true
	case json.Number:
		f, err := v.Float64()
		if err != nil || f != math.Trunc(f) || math.Abs(f) > math.MaxInt32 {
			return "", false
		}
		return strconv.Itoa(int(f)), true
	case nil:
		return "''", true
	case bool:
		if v {
			return "1", true
		}
		return "", true
	default:
		return "", false
	}
}

// shellQuote quotes a string as Nix does.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
