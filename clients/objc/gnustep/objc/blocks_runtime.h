// GNUstep's headers include this one where the compiler knows blocks. GCC's runtime does not have it; blocks.m beside it does
// what it says.

#include <Block.h>
