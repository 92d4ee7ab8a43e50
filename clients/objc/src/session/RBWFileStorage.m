#import <Rainbow/RBWStorage.h>

#import "RBWOwnership.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static BOOL writeFile(const char *path, NSData *data);

@implementation RBWFileStorage

- (instancetype)initWithPath:(NSString *)path {
    if ((self = [super init])) _path = [path copy];
    return self;
}

- (void)dealloc {
    RBW_RELEASE(_path);
    RBW_SUPER_DEALLOC;
}

- (NSString *)loadText {
    NSData *data = [NSData dataWithContentsOfFile:_path];
    return data == nil ? nil : RBW_AUTORELEASE([[NSString alloc] initWithData:data encoding:NSUTF8StringEncoding]);
}

/// Foundation's atomic write does not wait for the disk; after a power cut the old ids would come back.
- (BOOL)saveText:(NSString *)text error:(NSError **)error {
    NSString *fresh = [_path stringByAppendingString:@".new"];
    BOOL isWritten = writeFile(fresh.fileSystemRepresentation, [text dataUsingEncoding:NSUTF8StringEncoding]);
    if (isWritten && rename(fresh.fileSystemRepresentation, _path.fileSystemRepresentation) == 0) return YES;
    if (error != NULL) {
        NSString *why = [NSString stringWithFormat:@"%@: %s", _path, strerror(errno)];
        *error = [NSError errorWithDomain:NSPOSIXErrorDomain code:errno userInfo:@{NSLocalizedDescriptionKey: why}];
    }
    unlink(fresh.fileSystemRepresentation);
    return NO;
}

- (void)removeText {
    unlink(_path.fileSystemRepresentation);
}

/// Leaves `errno` of what failed.
static BOOL writeFile(const char *path, NSData *data) {
    // Ids tell nobody anything, but whoever changes them makes messages come twice.
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, S_IRUSR | S_IWUSR);
    if (file < 0) return NO;
    const uint8_t *bytes = data.bytes;
    NSUInteger length = data.length;
    while (length > 0) {
        ssize_t written = write(file, bytes, length);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) break;
        bytes += written;
        length -= (NSUInteger)written;
    }
    BOOL isSafe = length == 0 && fsync(file) == 0;
    int fault = errno;
    if (close(file) != 0 && isSafe) return NO;
    errno = fault;
    return isSafe;
}

@end
