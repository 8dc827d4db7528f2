package chunk_test

// Cut points of nar/chunk as of store format 1.
const (
	goldenNoise = "[19364 19413 9224 20392 18997 25039 18518 20805 24218 18951 5079]"
	goldenText  = "[65536 22464]"
)
