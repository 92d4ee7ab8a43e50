// Tests as functions. A test that fails says where, and the program goes on with the next one.

#import <Rainbow/Rainbow.h>

/// Each is run in an autorelease pool. `main` returns the number of tests that failed, at most 1.
typedef struct {
    const char *name;
    void (*run)(void);
} Test;

#define TEST(name) {#name, name}

#define CHECK(condition)                                                                        \
    do {                                                                                        \
        if (!(condition)) fail(__FILE__, __LINE__, @"not so: " #condition);                     \
    } while (0)

#define EQUAL(found, wanted)                                                                             \
    do {                                                                                                 \
        id isFound = (found), isWanted = (wanted);                                                       \
        if (isFound != isWanted && ![isFound isEqual:isWanted])                                          \
            fail(__FILE__, __LINE__, [NSString stringWithFormat:@"%s: %@, not %@", #found, isFound, isWanted]); \
    } while (0)

/// What of a vector the test is at; it is said when something fails.
void at(NSString *place);
void fail(const char *file, int line, NSString *what);
int runTests(const Test *tests, size_t count);

/// Runs the run loop until it is so. Fails after ten seconds.
#define UNTIL(condition)                                                                     \
    do {                                                                                     \
        NSTimeInterval limit = [NSDate timeIntervalSinceReferenceDate] + 10;                 \
        BOOL isSo;                                                                           \
        while (!(isSo = (condition)) && [NSDate timeIntervalSinceReferenceDate] < limit) turn(0.005); \
        if (!isSo) fail(__FILE__, __LINE__, @"not within ten seconds: " #condition);         \
    } while (0)

void turn(NSTimeInterval seconds);

NSData *fromHex(NSString *hex);
NSString *toHex(NSData *data);
/// A file of ../vectors.
NSDictionary *vectors(NSString *name);
