// The page at /: a conversation in the browser. Its source is web/chat.html.
#pragma once

#include <string_view>

namespace stem {

/// HTML, complete in itself: no other file, no other server.
std::string_view chat_page();

}  // namespace stem
