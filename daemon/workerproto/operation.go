package workerproto

import "fmt"

// Operation is one of the protocol's operations.
type Operation uint64

// The operations that clients from 1.18 on send. Others once were: 3, 4, 5, 15, 16, 24, 25, 27.
const (
	IsValidPath                 Operation = 1
	QueryReferrers              Operation = 6
	AddToStore                  Operation = 7
	AddTextToStore              Operation = 8
	BuildPaths                  Operation = 9
	EnsurePath                  Operation = 10
	AddTempRoot                 Operation = 11
	AddIndirectRoot             Operation = 12
	SyncWithGC                  Operation = 13
	FindRoots                   Operation = 14
	QueryDeriver                Operation = 18
	SetOptions                  Operation = 19
	CollectGarbage              Operation = 20
	QuerySubstitutablePathInfo  Operation = 21
	QueryDerivationOutputs      Operation = 22
	QueryAllValidPaths          Operation = 23
	QueryPathInfo               Operation = 26
	QueryDerivationOutputNames  Operation = 28
	QueryPathFromHashPart       Operation = 29
	QuerySubstitutablePathInfos Operation = 30
	QueryValidPaths             Operation = 31
	QuerySubstitutablePaths     Operation = 32
	QueryValidDerivers          Operation = 33
	OptimiseStore               Operation = 34
	VerifyStore                 Operation = 35
	BuildDerivation             Operation = 36
	AddSignatures               Operation = 37
	NarFromPath                 Operation = 38
	AddToStoreNar               Operation = 39
	QueryMissing                Operation = 40
	QueryDerivationOutputMap    Operation = 41
	RegisterDrvOutput           Operation = 42
	QueryRealisation            Operation = 43
	AddMultipleToStore          Operation = 44
	AddBuildLog                 Operation = 45
	BuildPathsWithResults       Operation = 46
	AddPermRoot                 Operation = 47
)

// String returns the operation's name.
func (o Operation) String() string {
	names := [...]string{ // no map, which would be made anew each time
		IsValidPath: "IsValidPath", QueryReferrers: "QueryReferrers", AddToStore: "AddToStore", AddTextToStore: "AddTextToStore",
		BuildPaths: "BuildPaths", EnsurePath: "EnsurePath", AddTempRoot: "AddTempRoot", AddIndirectRoot: "AddIndirectRoot",
		SyncWithGC: "SyncWithGC", FindRoots: "FindRoots", QueryDeriver: "QueryDeriver", SetOptions: "SetOptions",
		CollectGarbage: "CollectGarbage", QuerySubstitutablePathInfo: "QuerySubstitutablePathInfo",
		QueryDerivationOutputs: "QueryDerivationOutputs", QueryAllValidPaths: "QueryAllValidPaths", QueryPathInfo: "QueryPathInfo",
		QueryDerivationOutputNames: "QueryDerivationOutputNames", QueryPathFromHashPart: "QueryPathFromHashPart",
		QuerySubstitutablePathInfos: "QuerySubstitutablePathInfos", QueryValidPaths: "QueryValidPaths",
		QuerySubstitutablePaths: "QuerySubstitutablePaths", QueryValidDerivers: "QueryValidDerivers", OptimiseStore: "OptimiseStore",
		VerifyStore: "VerifyStore", BuildDerivation: "BuildDerivation", AddSignatures: "AddSignatures", NarFromPath: "NarFromPath",
		AddToStoreNar: "AddToStoreNar", QueryMissing: "QueryMissing", QueryDerivationOutputMap: "QueryDerivationOutputMap",
		RegisterDrvOutput: "RegisterDrvOutput", QueryRealisation: "QueryRealisation", AddMultipleToStore: "AddMultipleToStore",
		AddBuildLog: "AddBuildLog", BuildPathsWithResults: "BuildPathsWithResults", AddPermRoot: "AddPermRoot",
	}
	if o < Operation(len(names)) && names[o] != "" {
		return names[o]
	}
	return fmt.Sprintf("operation %d", uint64(o))
}
