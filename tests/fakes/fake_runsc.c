/* An ELF file, since a script is refused: runs the program beside it with the same arguments. */
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv) {
    static char self[PATH_MAX], program[PATH_MAX + 32];
    char **words = calloc((size_t)argc + 5, sizeof *words);
    if (words == NULL || readlink("/proc/self/exe", self, sizeof self - 1) < 0) return 126;
    snprintf(program, sizeof program, "%s/fake_runsc.pyc", dirname(self));
    words[0] = PYTHON;
    words[1] = "-I";
    words[2] = "-S";
    words[3] = program;
    for (int i = 1; i < argc; i++) words[i + 3] = argv[i];
    execv(PYTHON, words);
    return 126;
}
