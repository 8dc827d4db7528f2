#include <math.h>
#include <stdio.h>

#include "table.h"

#define ADD(unit) sum += unit(table);

int main(int argc, char **argv) {
	int sum = 0;
	EACH_UNIT(ADD)
	printf("%d of %d, %g\n", sum, UNITS, sqrt(argc));
	return 0;
}
