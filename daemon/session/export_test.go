package session

import (
	"github.com/narfs/narfs/daemon/acl"
	"github.com/narfs/narfs/daemon/workerproto"
)

// WorkerOp is what the tests look at of a row of the worker protocol's table.
type WorkerOp struct {
	Operation workerproto.Operation
	Since     uint8
	Need      acl.Permission
}

// WorkerOps is the table.
func WorkerOps() (all []WorkerOp) {
	for _, op := range workerOps() {
		all = append(all, WorkerOp{op.operation, op.since, op.need})
	}
	return all
}
