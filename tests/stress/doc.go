// Package stress has narfs do everything at once, and be killed: copies beside a collector, clients that die, a reader in the mount,
// and an owner that is killed at any point. scripts/stress runs it for longer.
package stress
