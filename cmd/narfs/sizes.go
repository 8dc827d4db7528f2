package main

import (
	"fmt"
	"strconv"
)

// sizeText spells a number of bytes for people: "17 B", "1.5 KiB", "23 MiB".
func sizeText(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	number, unit := scale(n)
	return number + " " + units[unit]
}

// shortSize spells a number of bytes as ls -h does: "17", "1.5K", "23M".
func shortSize(n int64) string {
	number, unit := scale(n)
	if unit == 0 {
		return number
	}
	return number + "KMGTPE"[unit-1:unit]
}

func scale(n int64) (number string, unit int) {
	if n < 0 {
		number, unit = scale(-n)
		return "-" + number, unit
	}
	if n < 1024 {
		return strconv.FormatInt(n, 10), 0
	}
	f := float64(n)
	for f >= 1023.5 {
		f /= 1024
		unit++
	}
	if f < 9.95 {
		return fmt.Sprintf("%.1f", f), unit
	}
	return fmt.Sprintf("%.0f", f), unit
}

// percentText is the share of a part in a whole.
func percentText(part, whole int64) string {
	if whole == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f%%", 100*float64(part)/float64(whole))
}

// countText is a number with its noun: "1 path", "2 paths".
func countText(n int64, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.FormatInt(n, 10) + " " + one + "s"
}
