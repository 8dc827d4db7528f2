package casefold

import "golang.org/x/sys/unix"

// pcCaseSensitive is _PC_CASE_SENSITIVE of <sys/unistd.h>.
const pcCaseSensitive = 11

// askSystem asks pathconf(2), which every Darwin file system answers.
func askSystem(dir string) (insensitive, known bool, err error) {
	sensitive, err := unix.Pathconf(dir, pcCaseSensitive)
	if err != nil {
		return false, false, err
	}
	return sensitive == 0, true, nil
}
