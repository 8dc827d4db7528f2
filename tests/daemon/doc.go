// Package daemon tests narfs daemon and narfs serve from outside: who owns the store and who may use it, signals, clients that
// hang up, hostile ones, and memory.
package daemon
