#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
	int n = argc > 1 ? atoi(argv[1]) : 0;
	printf("#define UNITS %d\nstatic const int table[UNITS] = {", n);
	for (int i = 0; i < n; i++)
		printf("%d,", i * i);
	printf("};\n");
	for (int i = 0; i < n; i++)
		printf("int unit%d(const int *table);\n", i);
	printf("#define EACH_UNIT(call)");
	for (int i = 0; i < n; i++)
		printf(" call(unit%d)", i);
	printf("\n");
	return ferror(stdout) != 0;
}
