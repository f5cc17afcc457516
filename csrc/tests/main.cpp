#include <algorithm>
#include <sstream>

#include "check.h"

// GCONV_COMPILED: the names of the instruction sets in this binary, as CMakeLists.txt chose them.
void print_instruction_sets() {
    const std::vector<std::string> ran = gconv::instruction_sets();
    std::istringstream names(GCONV_COMPILED);
    for (std::string name; names >> name;) {
        const bool here = std::find(ran.begin(), ran.end(), name) != ran.end();
        std::printf("%s: %s\n", name.c_str(), here ? "ran" : "compiled, not run");
    }
}

int main() {
    test_group_conv2d();
    test_lifting_conv2d();
    test_group_pool();
    test_half();
    test_threads();
    print_instruction_sets();
    std::printf("%d passed, %d failed\n", check::total().passed, check::total().failed);
    return check::total().failed != 0;
}
