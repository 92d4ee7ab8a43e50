// Where the ids of a session survive a restart of the application.

#import <Rainbow/RBWDefines.h>

NS_ASSUME_NONNULL_BEGIN

/// One for each client. A few hundred bytes as a rule, 200 kB at most. It is called on the client's thread.
NS_SWIFT_NAME(RainbowStorage)
@protocol RBWStorage <NSObject>

/// What was saved last; nil for nothing.
- (nullable NSString *)loadText;
/// Returns when the text is safe. On failure the client reports the error and saves nothing more.
- (BOOL)saveText:(NSString *)text error:(NSError *_Nullable *_Nullable)error;
/// Forgets what was saved: it is older than what the client has told the server.
- (void)removeText;

@end

/// A file of its own for each client. It is written anew and renamed, so that it is never half.
NS_SWIFT_NAME(RainbowFileStorage)
@interface RBWFileStorage : NSObject <RBWStorage> {
@private
    NSString *_path;
}

- (instancetype)initWithPath:(NSString *)path NS_DESIGNATED_INITIALIZER;
- (instancetype)init RBW_UNAVAILABLE;

@end

NS_ASSUME_NONNULL_END
