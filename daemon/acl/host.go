package acl

import (
	"runtime"

	"golang.org/x/sys/cpu"
	"golang.org/x/sys/unix"
)

// hostSystem is what derivations call this machine.
func hostSystem() string {
	arch := map[string]string{"amd64": "x86_64", "arm64": "aarch64", "386": "i686"}[runtime.GOARCH]
	if arch == "" {
		arch = runtime.GOARCH
	}
	return arch + "-" + runtime.GOOS
}

// hostPlatforms are what this machine can run beside what it is: as Nix has it, by the levels of the x86-64 psABI up to
// the third.
func hostPlatforms() (all []string) {
	if runtime.GOARCH != "amd64" || runtime.GOOS != "linux" {
		return nil
	}
	all = []string{"i686-linux", "x86_64-v1-linux"}
	x := cpu.X86
	if !x.HasCX16 || !x.HasPOPCNT || !x.HasSSE3 || !x.HasSSSE3 || !x.HasSSE41 || !x.HasSSE42 {
		return all
	}
	all = append(all, "x86_64-v2-linux")
	if !x.HasAVX || !x.HasAVX2 || !x.HasBMI1 || !x.HasBMI2 || !x.HasFMA || !x.HasOSXSAVE {
		return all
	}
	return append(all, "x86_64-v3-linux")
}

// hostFeatures are what derivations may require.
func hostFeatures() []string {
	all := []string{"benchmark", "big-parallel"}
	if unix.Access("/dev/kvm", unix.R_OK|unix.W_OK) == nil {
		all = append(all, "kvm")
	}
	return append(all, "nixos-test")
}
