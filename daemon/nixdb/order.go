package nixdb

import (
	"context"
	"database/sql"
	"fmt"
	"slices"

	"github.com/narfs/narfs/internal/nix"
)

// Rows returns all valid paths, in the order of their names. Bad hears of those that are none, with their names.
func (d *DB) Rows(ctx context.Context, bad func(name string, err error)) ([]Row, error) {
	var all []Row
	err := d.query(ctx, "SELECT id, path, narSize FROM ValidPaths", func(rows *sql.Rows) error {
		var row Row
		var name string
		var size sql.NullInt64
		if err := rows.Scan(&row.id, &name, &size); err != nil {
			return err
		}
		var err error
		if row.Path, err = nix.ParseStorePath(d.storeDir, name); err != nil {
			bad(name, d.place.about(err))
			return nil
		}
		row.NarSize = uint64(max(size.Int64, 0))
		all = append(all, row)
		return nil
	})
	slices.SortFunc(all, func(a, b Row) int { return a.Path.Compare(b.Path) })
	return all, err
}

func (d *DB) query(ctx context.Context, text string, row func(*sql.Rows) error) error {
	rows, err := d.conn.QueryContext(ctx, text)
	if err != nil {
		return d.place.about(err)
	}
	defer rows.Close() //nolint:errcheck // Err has it
	for rows.Next() {
		if err := row(rows); err != nil {
			return d.place.about(err)
		}
	}
	return d.place.about(rows.Err())
}

// Closure returns those of rows, which are what Rows returned, that are chosen or that a chosen one refers to, directly or not,
// each behind what it refers to; all of them if chosen is nil. Of paths that refer to each other in a circle, which is an error in the
// database, one is not behind what it refers to: Info of its row is an error.
func (d *DB) Closure(ctx context.Context, rows []Row, chosen []nix.StorePath) ([]Row, error) {
	g, err := d.graph(ctx, rows)
	if err != nil {
		return nil, err
	}
	var start []int32
	for _, p := range chosen {
		i, ok := slices.BinarySearchFunc(rows, p, func(r Row, p nix.StorePath) int { return r.Path.Compare(p) })
		if !ok {
			return nil, d.place.about(fmt.Errorf("path '%s' is not valid", d.storeDir.Path(p)))
		}
		start = append(start, int32(i))
	}
	if chosen == nil {
		for i := range rows {
			start = append(start, int32(i))
		}
	}
	order, cyclic := g.sorted(start)
	sorted := make([]Row, 0, len(order))
	for _, i := range order {
		row := rows[i]
		_, row.cyclic = slices.BinarySearch(cyclic, i)
		sorted = append(sorted, row)
	}
	return sorted, nil
}

// graph has the references of all rows by their indexes: those of i are to[first[i]:first[i+1]].
type graph struct {
	first []int32
	to    []int32
}

func (d *DB) graph(ctx context.Context, rows []Row) (*graph, error) {
	index := make(map[int64]int32, len(rows))
	for i, r := range rows {
		index[r.id] = int32(i)
	}
	type edge struct{ from, to int32 }
	var edges []edge
	err := d.query(ctx, "SELECT referrer, reference FROM Refs", func(rows *sql.Rows) error {
		var from, to int64
		if err := rows.Scan(&from, &to); err != nil {
			return err
		}
		i, ok := index[from]
		j, ok2 := index[to]
		if ok && ok2 && i != j { // Info tells of what is missing
			edges = append(edges, edge{i, j})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(edges, func(a, b edge) int {
		if a.from != b.from {
			return int(a.from) - int(b.from)
		}
		return int(a.to) - int(b.to)
	})
	g := &graph{first: make([]int32, len(rows)+1), to: make([]int32, 0, len(edges))}
	for _, e := range edges {
		g.first[e.from+1]++
		g.to = append(g.to, e.to)
	}
	for i := range rows {
		g.first[i+1] += g.first[i]
	}
	return g, nil
}

// sorted returns what can be reached from start, depth first, each behind what it refers to, and in order those of them that
// close a cycle.
func (g *graph) sorted(start []int32) (order, cyclic []int32) {
	const (
		unseen = iota
		open
		done
	)
	state := make([]uint8, len(g.first)-1)
	type frame struct{ at, next int32 }
	var stack []frame // no recursion: a chain of references may be long
	enter := func(i int32) {
		state[i] = open
		stack = append(stack, frame{i, g.first[i]})
	}
	for _, s := range start {
		if state[s] == unseen {
			enter(s)
		}
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			if top.next == g.first[top.at+1] {
				state[top.at] = done
				order = append(order, top.at)
				stack = stack[:len(stack)-1]
				continue
			}
			to := g.to[top.next]
			top.next++
			switch state[to] {
			case unseen:
				enter(to)
			case open:
				cyclic = append(cyclic, top.at)
			}
		}
	}
	slices.Sort(cyclic)
	return order, slices.Compact(cyclic)
}
