#include "check.h"

int main() {
    test_group_conv2d();
    test_lifting_conv2d();
    test_group_pool();
    test_half();
    std::printf("%d passed, %d failed\n", check::total().passed, check::total().failed);
    return check::total().failed != 0;
}
