package main

// mountName is what mount and df show as the device.
func mountName(stateDir string) string { return stateDir }
